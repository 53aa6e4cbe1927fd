"""How fast: `fit`, `transform`, `encode` and `imports`, each beside a rival, and the limit."""

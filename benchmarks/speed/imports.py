"""What importing costs: the package, its command line, and the libraries beneath.

python -m benchmarks.speed.imports

Each line is a process of its own, in turn with the others, and the time of an empty one is taken
off. The limit of what must load torch is torch.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.common import Row
from benchmarks.speed.timing import Timings, in_turn, open_rows, options, show, spread

COMMANDS: dict[str, list[str]] = {
    "nothing": ["-c", "pass"],
    "import sparsecode": ["-c", "import sparsecode"],
    "sparsecode --help": ["-m", "sparsecode", "--help"],
    "import numpy": ["-c", "import numpy"],
    "read_codes": ["-c", "import sparsecode; sparsecode.read_codes"],
    "SparseVAETransformer": ["-c", "import sparsecode; sparsecode.SparseVAETransformer"],
    "import torch, scikit-learn": ["-c", "import torch, sklearn.utils.validation, scipy.sparse"],
}
_RIVALS = {"read_codes": "import numpy", "SparseVAETransformer": "import torch, scikit-learn"}


def start(arguments: list[str]) -> None:
    """Run Python with these arguments and wait."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def measure(commands: Mapping[str, list[str]], rounds: int) -> Row:
    """Seconds of each command beyond those of an empty one."""
    starts: dict[str, Callable[[], object]] = {
        name: partial(start, arguments) for name, arguments in commands.items()
    }
    timings = in_turn(starts, rounds)
    nothing = timings.seconds["nothing"]
    beyond = {
        name: values - nothing for name, values in timings.seconds.items() if name != "nothing"
    }
    return Timings(beyond).row()


def main() -> None:
    args = options(__doc__).parse_args()
    file = open_rows(args, "imports")
    key = {"benchmark": "imports", "comparison": "imports"}
    row = file.get(key, lambda: measure(COMMANDS, args.rounds))
    lines = [{**row, "name": name} for name in COMMANDS if name != "nothing"]
    show(
        f"Seconds beyond those of an empty Python, {row['n']} rounds",
        lines,
        lambda line: {
            "": line["name"],
            "seconds": spread(line[f"{line['name']}_s"], 2),
            "rival": _RIVALS.get(line["name"], "–"),
            "of the rival": _of_rival(line),
        },
    )


def _of_rival(line: Row) -> str:
    name = line["name"]
    if name not in _RIVALS:
        return "–"
    return f"{line[f'{name}_s'][0] / line[f'{_RIVALS[name]}_s'][0]:.2f}"


if __name__ == "__main__":
    main()

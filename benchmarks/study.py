"""Whether each step earns its place: a pipeline with all its controls over several seeds, and the tables of it.

    python benchmarks/study.py runs/study --dataset=folder --data_dir=photos --preset=fast --seeds=0,1,2
    python benchmarks/study.py --summary runs/study

The first runs `pipeline.py` with the flags that it is given, and with `--controls=all` and `--seeds=0,1,2` where they
say nothing of these; given again, it goes on where it stopped. The second reads the run directories alone, finished or
not, and prints every table as Markdown, and then all of it as one line of JSON.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = {"controls": "all", "seeds": "0,1,2"}

sys.path.insert(0, str(ROOT))


def main() -> None:
    words = sys.argv[1:]
    summary_only = "--summary" in words
    directories = [word for word in words if not word.startswith("--")]
    if len(directories) != 1 or (summary_only and len(words) != 2):
        print(__doc__)
        sys.exit(2)
    if not summary_only:
        run(directories[0], [word for word in words if word.startswith("--")])
    summarize(directories[0])


def run(directory: str, flags: list[str]) -> None:
    """Runs or resumes the pipelines; ends as they end where they do not come to an end."""
    given = {flag.removeprefix("--").split("=")[0] for flag in flags}
    flags = [*flags, *(f"--{name}={value}" for name, value in DEFAULTS.items() if name not in given)]
    command = [sys.executable, str(ROOT / "pipeline.py"), f"--model_dir={directory}", *flags]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def summarize(directory: str) -> None:
    """Prints the tables of the runs in a directory."""
    from nhn_tf.errors import UserError
    from nhn_tf.report import family

    try:
        value = family.collect(directory)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(family.render(value))
    print(json.dumps(value, sort_keys=True))


if __name__ == "__main__":
    main()

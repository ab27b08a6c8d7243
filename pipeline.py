"""Runs all seven stages, then writes the report.

    python pipeline.py --preset=demo --model_dir=runs/demo

Started again with the same command it goes on where it stopped. A stage's setting carries its name: --base_epochs=40.
Watch it with `tensorboard --logdir=runs/demo`.
"""

from typing import Any

from flags import entry
from flags.define import StageFlags

STAGES = ("enas", "base", "prune", "pruned", "lds_location", "lds_direction", "final")
# What a stage's row of the table shows beside its time.
FIGURES = ("test_accuracy", "val_accuracy", "random_search_val_accuracy", "live_params", "kernel_sparsity", "addons")


def main() -> None:
    stage_flags = StageFlags(STAGES, choose_stage=False, prefixed=True)
    entry.guarded(lambda: stage_flags.help_text(__doc__ or ""), lambda: run(stage_flags))


def run(stage_flags: StageFlags) -> dict[str, Any]:
    """Runs what is not finished yet, in order, and reports.

    Returns:
      What `report.write_report` returns, and the wall seconds of each stage under "wall_s".
    """
    asked = {stage: stage_flags.configured(stage) for stage in STAGES}
    entry.check_backend()
    from nhn_tf import stages  # Keras loads only once the flags are known to be right
    from nhn_tf.report import write_report

    settings = {stage: entry.settings(parts, stage) for stage, parts in asked.items()}
    directory = entry.run_directory()
    stages.check(settings)
    rows = []
    for stage in STAGES:
        done = stages.run(stage, directory, settings[stage])
        rows.append((stage, done))
        print(f"\n{table(rows)}\n", flush=True)
    report = write_report(directory.path)
    return {**report, "wall_s": {stage: done["wall_s"] for stage, done in rows}}


def table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Finished stages with their time and result."""
    lines = [f"{'stage':<14} {'time':>9}  result"]
    for stage, done in rows:
        found = [(name, done["metrics"].get(name)) for name in FIGURES]
        result = ", ".join(f"{name} {_number(value)}" for name, value in found if value is not None)
        lines.append(f"{stage:<14} {done['wall_s']:>7.0f} s  {result}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


if __name__ == "__main__":
    main()

"""How much accuracy each pruning criterion leaves, before any retraining, on finished base networks.

    for s in 0 1 2; do
      python search.py --stage=enas --preset=demo --seed=$s --model_dir=runs/seed$s
      python train.py --stage=base --preset=demo --seed=$s --model_dir=runs/seed$s
    done
    python benchmarks/pruning_criteria.py --model_dirs=runs/seed0,runs/seed1,runs/seed2

Prints the mean and standard deviation over the runs of the test accuracy at each sparsity (scope global); the last line
is JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FLAGS = flags.FLAGS
flags.DEFINE_list("model_dirs", None, "runs whose stage `base` has finished", required=True)
flags.DEFINE_list("sparsities", ["0.3", "0.5", "0.7", "0.85"], "shares of the kernels to prune")
flags.DEFINE_list("criteria", ["std", "l1", "l2", "random"], "criteria to compare")


def accuracies(model_dir: str) -> dict[str, list[float]]:
    """Test accuracy under each criterion, in the order of the sparsities; "base" is the unpruned network's."""
    from nhn_tf import pruning, training
    from nhn_tf.data import datasets
    from nhn_tf.runs import RunDirectory, Settings
    from nhn_tf.settings import ComputeConfig, DataConfig
    from nhn_tf.stages.feed import Feed, inherited

    run = RunDirectory(model_dir)
    base = run.stage("base")
    record = base.record()
    settings = Settings(
        config=None,  # type: ignore[arg-type]  # nothing is trained
        data=DataConfig.from_json(record["data"]),
        compute=ComputeConfig.from_json(record["compute"]),
        seed=record["seed"],
    )
    data = datasets.load(settings.data, seed=settings.seed)
    test = Feed(data, settings).test
    model = inherited(run, base, data)
    found = {"base": [training.accuracy(model, test)]}
    for criterion in FLAGS.criteria:
        found[criterion] = [
            training.accuracy(
                pruning.prune(
                    model, sparsity=float(sparsity), criterion=criterion, seed=settings.seed, allow_disconnected=True
                ),
                test,
            )
            for sparsity in FLAGS.sparsities
        ]
    return found


def main(argv: list[str]) -> None:
    del argv
    runs = [accuracies(directory) for directory in FLAGS.model_dirs]
    print(f"{'criterion':<10}" + "".join(f"{s:>18}" for s in FLAGS.sparsities) + f"   n={len(runs)}")
    summary: dict[str, dict[str, list[float]]] = {}
    for name in ["base", *FLAGS.criteria]:
        values = np.array([run[name] for run in runs])
        cells = [f"{m:.4f} +- {s:.4f}" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
        print(f"{name:<10}" + "".join(f"{cell:>18}" for cell in cells))
        summary[name] = {"mean": values.mean(axis=0).round(4).tolist(), "std": values.std(axis=0).round(4).tolist()}
    print(json.dumps({"sparsities": [float(s) for s in FLAGS.sparsities], **summary}))


if __name__ == "__main__":
    app.run(main)

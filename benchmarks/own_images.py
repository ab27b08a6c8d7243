"""A planned run on images of one's own beside what one would try else, at equal CPU time, on the same split.

    python benchmarks/own_images.py photos/ --minutes 20
    python benchmarks/own_images.py digits --minutes 5 --seeds 0,1,2 --out digits.json

Of each seed, first `pipeline.py --time_limit`, searches, pruning and its own baseline included; then each other method
trains until it has taken as much CPU time, or for `MOST_EPOCHS`, which none was seen to profit from:

- cnn: the plain network of `nhn_tf.models.plain_cnn`, what one would write oneself;
- recipe: the same network, trained as a planned run trains its own (momentum, label smoothing, as much L2);
- resnet20: ResNet-20 (He et al. 2016), trained by that recipe, too;
- mobilenet: `keras.applications.MobileNetV3Small` from new weights, on pictures of 32 pixels at least;
- autokeras: its image classifier, where it is installed.

The networks of Keras are given what a careful user would find out: Adam with a cosine to 0 where the recipe is not
ours, mirrored and shifted pictures where the run found that they help, and the weights of the epoch that was best on
the validation images. With `--peer_epochs` they train for so many epochs instead, whatever those take; AutoKeras keeps
to the time.

Afterwards each network answers one image at a time on one thread, in each engine that is installed (see
`benchmarks/requirements.txt`); its fastest counts. OpenVINO computes as on its default.

Results go to `--out` as they come: called again, it goes on. The last line is JSON: for each method the mean accuracy
on the test images and its standard deviation over the seeds, live parameters, milliseconds an image, minutes of wall
clock and of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from keras import layers

from nhn_tf import training
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches, FollowEpoch
from nhn_tf.data.normalization import Normalization
from nhn_tf.models import plain_cnn, residual
from nhn_tf.settings import BaselineConfig, DataConfig
from nhn_tf.stages import planning
from nhn_tf.training import optimizers

ROOT: Final = Path(__file__).resolve().parents[1]
METHODS: Final = ("ours", "cnn", "recipe", "resnet20", "mobilenet", "autokeras")
BY_RECIPE: Final = ("recipe", "resnet20")
MOST_EPOCHS: Final = 400
SMALLEST: Final = 32
"""MobileNetV3 takes no smaller pictures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder of class folders, or digits")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--train_limit", type=int, default=0, help="use only that many training images")
    parser.add_argument("--eval_limit", type=int, default=0, help="use only that many validation and test images each")
    parser.add_argument("--peer_epochs", type=int, default=0, help="of the networks of Keras, not equal CPU time")
    parser.add_argument("--out", type=Path, default=Path("own_images.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a method, in a process of its own
    parser.add_argument("--model", help=argparse.SUPPRESS)  # a file, whose latency is measured
    parser.add_argument("--cpu_s", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options)))
        return
    if options.data != "digits":
        options.data = str(Path(options.data).resolve())
    asked = {name: getattr(options, name) for name in ("data", "minutes", "train_limit", "eval_limit")}
    if options.peer_epochs:
        asked["peer_epochs"] = options.peer_epochs
    kept = json.loads(options.out.read_text()) if options.out.exists() else {"asked": asked, "results": {}}
    if kept["asked"] != asked:
        parser.error(f"{options.out} holds results of {kept['asked']}. Give another --out.")
    results: dict[str, dict[str, Any]] = kept["results"]
    for seed in options.seeds.split(","):
        for method in options.methods.split(","):
            row = results.setdefault(method, {})
            if seed in row or "skipped" in row:
                continue
            cpu_s = results.get("ours", {}).get(seed, {}).get("cpu_s", 60 * options.minutes)
            row[seed] = run_ours(options, seed) if method == "ours" else apart(options, method, seed, cpu_s)
            if "skipped" in row[seed]:
                results[method] = row[seed]
            options.out.write_text(json.dumps(kept, indent=1))
            print(f"seed {seed} {method}: {row[seed]}", flush=True)
    print(json.dumps({method: summary(method, results[method]) for method in options.methods.split(",")}))


def summary(method: str, row: dict[str, Any]) -> dict[str, Any]:
    """A method's figures over its seeds."""
    if "skipped" in row:
        return row
    accuracies = [result["accuracy"] for result in row.values()]
    means = {name: statistics.mean(result[name] for result in row.values()) for name in ("params", "ms", "minutes")}
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    cpu = statistics.mean(result["cpu_s"] for result in row.values()) / 60
    values = {"accuracy": statistics.mean(accuracies), "std": spread, **means, "cpu_minutes": cpu}
    return {name: round(value, 4) for name, value in values.items()} | {"seeds": len(accuracies)}


def dataset_flags(options: argparse.Namespace) -> list[str]:
    where = ["--dataset=digits"] if options.data == "digits" else ["--dataset=folder", f"--data_dir={options.data}"]
    return [*where, f"--train_limit={options.train_limit}", f"--eval_limit={options.eval_limit}"]


def run_ours(options: argparse.Namespace, seed: str) -> dict[str, Any]:
    """The product as its users call it; what counts is the network that it exports."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        limit = [f"--time_limit={options.minutes}m", f"--seed={seed}", f"--model_dir={run}"]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        call("pipeline.py", *dataset_flags(options), *limit)
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        call("export.py", f"--model_dir={run}", "--format=keras")
        stage = json.loads((run / "export" / "export.json").read_text())["stage"]
        speed = call(__file__, options.data, "--one=latency", f"--model={run}/export/network.keras")
        done = [json.loads(path.read_text()) for path in run.glob("*/done.json")]
    metrics = {stage["stage"]: stage["metrics"] for stage in done}
    return {
        "accuracy": metrics[stage]["test_accuracy"],
        "params": metrics[stage]["live_params"],
        **speed,
        "minutes": seconds / 60,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "stage": stage,
        "stages": {
            name: [m.get("test_accuracy"), m.get("live_params", m.get("params"))] for name, m in metrics.items()
        },
    }


def call(*command: str) -> dict[str, Any]:
    """What a script of this project ends with."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def apart(options: argparse.Namespace, method: str, seed: str, cpu_s: float) -> dict[str, Any]:
    """Another method in a process of its own, whose CPU time is its alone."""
    given = [f"--{name}={getattr(options, name)}" for name in ("peer_epochs", "train_limit", "eval_limit")]
    return call(__file__, options.data, f"--one={method}", f"--seeds={seed}", f"--cpu_s={cpu_s}", *given)


def one(options: argparse.Namespace) -> dict[str, Any]:
    if options.one == "latency":
        return latency(keras.saving.load_model(options.model, compile=False))
    folder = {"dataset": "digits"} if options.data == "digits" else {"dataset": "folder", "data_dir": options.data}
    config = DataConfig(**folder, train_limit=options.train_limit, eval_limit=options.eval_limit)
    data = datasets.load(config, seed=int(options.seeds))
    if options.one == "autokeras":
        return autokeras(data, options)
    return train(data, options)


def train(data: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One of the networks of Keras."""
    seed = int(options.seeds)
    began, work = time.monotonic(), time.process_time()
    keras.utils.set_random_seed(seed)
    of_all: dict[str, Any] = {"normalization": Normalization.of(data.train)}
    rest: dict[str, Any] = {"batch_size": 250, "shuffle": False, "seed": 0, "drop_remainder": False}
    augmentation = datasets.augmentation_for(DataConfig(dataset=data.name), data, cutout=0)
    drawn: dict[str, Any] = {"batch_size": 64, "shuffle": True, "seed": seed, "drop_remainder": True}
    batches = Batches(data.train, augmentation=augmentation, **drawn, **of_all)
    val, test = (Batches(split, **rest, **of_all) for split in (data.val, data.test))
    shape, classes = data.image_shape, data.num_classes
    if options.one == "mobilenet":
        model = mobilenet(shape, classes)
    elif options.one == "resnet20":
        model = residual.build(shape, classes)
    else:
        model = plain_cnn.build(shape, classes, dropout=0.3 if options.one == "cnn" else 0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def compiled(epochs: int) -> None:
        if options.one in BY_RECIPE:
            rate = planning.learning_rate(batches.batch_size)
            l2 = planning.decay(epochs * len(batches), rate)
            config = BaselineConfig(epochs=epochs, lr_max=rate, lr_min=0.0, l2=l2, warmup_epochs=min(2.0, epochs / 5))
            optimizer = optimizers.make_optimizer(config, len(batches))
            training.compile_classifier(model, optimizer, label_smoothing=0.1)
            return
        rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * len(batches))
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)

    fresh = model.get_weights()
    compiled(1)
    model.train_on_batch(*batches[0])
    lap = time.process_time()
    for index in range(1, 9):
        model.train_on_batch(*batches[index % len(batches)])
    step = (time.process_time() - lap) / 8
    epoch_s = step * (len(batches) + len(data.val) / 64 / 3)
    epochs = int(min(MOST_EPOCHS, max(1, (options.cpu_s - (time.process_time() - work)) / epoch_s)))
    epochs = options.peer_epochs or epochs
    model.set_weights(fresh)
    compiled(epochs)
    best = Best(math.inf if options.peer_epochs else options.cpu_s + work)
    model.fit(
        batches, epochs=epochs, validation_data=val, verbose=0, shuffle=False, callbacks=[FollowEpoch(batches), best]
    )
    model.set_weights(best.weights)
    spent = {"minutes": (time.monotonic() - began) / 60, "cpu_s": time.process_time() - work, "epochs": best.epochs}
    return {"accuracy": training.accuracy(model, test), "params": model.count_params(), **latency(model), **spent}


def mobilenet(shape: tuple[int, int, int], classes: int) -> Any:
    """MobileNetV3Small from new weights, in three channels, behind a resizing where pictures are too small for it.

    Its batch norm averages over 10 batches in place of 1,000, which a training as short as these does not have.
    """
    x = images = keras.Input(shape)
    if min(shape[:2]) < SMALLEST:
        x = layers.Resizing(SMALLEST, SMALLEST)(x)
    if shape[2] == 1:
        x = layers.Concatenate()([x, x, x])
    body = keras.applications.MobileNetV3Small(
        input_shape=tuple(x.shape[1:]), weights=None, classes=classes, include_preprocessing=False,
        classifier_activation=None,
    )  # fmt: skip
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return keras.Model(images, body(x))


class Best(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best validation accuracy, and ends in time.

    Args:
      end: seconds of this process's CPU time.
    """

    def __init__(self, end: float):
        super().__init__()
        self.end, self.epochs, self.accuracy = end, 0, -1.0
        self.weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs = epoch + 1
        if logs["val_accuracy"] >= self.accuracy:
            self.accuracy, self.weights = logs["val_accuracy"], self.model.get_weights()
        if time.process_time() > self.end:
            self.model.stop_training = True


class Enough(BaseException):
    """The time is up; Keras Tuner takes an Exception for a trial that failed, and begins the next."""


class Limit(keras.callbacks.Callback):
    """Ends the trial under way, which counts as it is then, and the search with it; `end` as in `Best`.

    Also within an epoch: one of the largest networks that AutoKeras tries would take an hour.
    """

    def __init__(self, end: float):
        super().__init__()
        self.end = end

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = self.model.stop_training or time.process_time() > self.end

    def on_train_begin(self, logs: Any = None) -> None:
        if time.process_time() > self.end:
            raise Enough


def autokeras(data: Any, options: argparse.Namespace) -> dict[str, Any]:
    """AutoKeras's image classifier: trials until the time is up, then the best of them."""
    try:
        import autokeras
    except ImportError as error:
        return {"skipped": f"{type(error).__name__}: {error}"}
    # Its heads give Dense a NumPy integer, which Keras 3.15 refuses.
    made = keras.layers.Dense.__init__
    keras.layers.Dense.__init__ = lambda layer, units, *rest, **more: made(layer, int(units), *rest, **more)
    began, work = time.monotonic(), time.process_time()
    validation = (data.val.images, data.val.labels)
    with tempfile.TemporaryDirectory() as folder:
        search = autokeras.ImageClassifier(max_trials=1000, directory=folder, seed=int(options.seeds), overwrite=True)
        limit = Limit(options.cpu_s + work)
        with contextlib.suppress(Enough):
            search.fit(data.train.images, data.train.labels, validation_data=validation, callbacks=[limit], verbose=0)
        model = search.tuner.get_best_model()
        answers = np.argmax(model.predict(data.test.images, verbose=0), axis=1)
    spent = {"minutes": (time.monotonic() - began) / 60, "cpu_s": time.process_time() - work}
    return {
        "accuracy": float(np.mean(answers == data.test.labels)),
        "params": model.count_params(),
        **latency(model),
        **spent,
    }


def latency(model: Any) -> dict[str, Any]:
    """Milliseconds of an image on one thread in the fastest engine, and its name."""
    # It tells TensorFlow to stay on one thread, which is too late here: trainings have all.
    from benchmarks.inference import OURS, engines, timed

    images = np.random.default_rng(0).standard_normal((1, *model.input_shape[1:])).astype(np.float32)
    model.predict_on_batch(images)  # Keras exports only what has been called
    with engines(model, 1) as calls:
        for name in list(calls):
            try:
                calls[name](images)
            except Exception as error:  # what was exported cannot be called, as with AutoKeras's own layers
                if name == OURS:
                    raise
                print(f"  {name}: skipped ({error})", file=sys.stderr)
                del calls[name]
        times = timed({name: (lambda c=call: c(images)) for name, call in calls.items()}, 1.0, cpu_time=True)
    fastest = min(times, key=times.__getitem__)
    return {"ms": 1e3 * times[fastest], "engine": fastest}


if __name__ == "__main__":
    main()

"""Names what new pictures show, by the network of a run.

    nhn-predict --model_dir=runs/photos new.jpg more/
    nhn-predict --model_dir=runs/photos --json --top=0 more/ > answers.jsonl

A line for each picture, its most probable classes in front; folders are searched, with all below them. Pictures are
read as training read them: turned upright, scaled, cropped, grey or in colour. One that cannot be read is named, the
others are predicted, and the exit code is 1. The network is export/network.nhn where there is one, which starts in
under a second without Keras, or else export/network.keras; where there is neither, the run is exported first.

Flags:
  --model_dir: the run's directory, or a copy of its directory export
  --top: how many classes a line names, 0 for all (default: 3)
  --json: a JSON object a line: {"picture": .., "class": .., "probabilities": {class: probability, ..}}, or "error"
  --data_dir: where the data set lies, if it has moved since the run and the run must be exported first
  --own_ops: modules to import that register ops of your own, if the network has any
  --debug: show the traceback of an error
"""

import json
import sys
from pathlib import Path

from absl import flags

from nhn_tf.data import folder_listing, skipped_files
from nhn_tf.errors import UserError
from nhn_tf.export import Prediction, load_predictor, predicting
from nhn_tf.storage.commands import typed

from .. import entry

FLAGS = flags.FLAGS


def main() -> None:
    flags.DEFINE_integer("top", 3, "how many classes a line names, 0 for all", lower_bound=0)
    flags.DEFINE_boolean("json", False, "a JSON object a line")
    flags.DEFINE_string("data_dir", None, "where the data set lies, if it has moved since the run")
    entry.define_reading("the run's directory, or a copy of its directory export", quiet=False)
    unread: list[Path] = []
    entry.guarded(
        lambda: (__doc__ or "").strip(), lambda *arguments: unread.extend(predict(*arguments)), takes_arguments=True
    )
    if unread:
        sys.exit(1)


def predict(*arguments: str) -> list[Path]:
    """Prints what the pictures, or those in folders, show; returns those that cannot be read."""
    model_dir = entry.run_to_read()
    if not arguments:
        command = typed("nhn-predict --model_dir=runs/demo new.jpg")
        raise UserError(f"no picture is given. Name files or folders: {command}")
    paths = [path for argument in arguments for path in pictures_at(Path(argument))]
    if predicting.needs_keras(model_dir):
        entry.check_backend()
        entry.stay_on_the_processor()
    predictor = load_predictor(model_dir, data_dir=FLAGS.data_dir)
    unread = []
    for path, result in predictor.stream(paths):
        if isinstance(result, Prediction):
            print(in_json(path, result) if FLAGS.json else in_words(path, result))
        else:
            unread.append(path)
            print(f"error: {str(result).splitlines()[0]}", file=sys.stderr)
            if FLAGS.json:
                print(json.dumps({"picture": str(path), "error": str(result).splitlines()[0]}))
    return unread


def pictures_at(path: Path) -> list[Path]:
    """The picture itself, or those below a folder; what else lies there is tallied."""
    if not path.is_dir():
        return [path]
    found, others = folder_listing.pictures_below(path)
    if others:
        print(f"{path}: {skipped_files.in_words(skipped_files.tally(others))}", file=sys.stderr)
    if not found:
        raise UserError(f"there is no picture in {path}.")
    return found


def in_words(path: Path, prediction: Prediction) -> str:
    """Such as "new.jpg: cat 97.3%, dog 2.1%, fox 0.6%"."""
    classes = ", ".join(f"{name} {100 * share:.1f}%" for name, share in prediction.top(FLAGS.top or None))
    return f"{skipped_files.readable(str(path))}: {classes}"


def in_json(path: Path, prediction: Prediction) -> str:
    """One line for programs."""
    shares = {name: round(share, 6) for name, share in prediction.top(FLAGS.top or None)}
    return json.dumps({"picture": str(path), "class": prediction.class_name, "probabilities": shares})

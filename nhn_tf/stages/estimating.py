"""How long the stages behind one will take, as far as that can be told from what has run.

What another seed's run has finished with the same settings takes as long again. Else work is counted in images: every
stage behind `base` computes its network, so that an image to train on costs about the same in each of them, the
searches of add-ons included, and one that is only measured a third of that (as `planning` has it). The price of an
image is that in the stage under way, or in one that has finished. The search of an architecture trains another network:
only other seeds' runs tell how long the stages behind it take.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nhn_tf.runs import RunDirectory, Settings
from nhn_tf.runs.settings import Behind
from nhn_tf.settings import LdsConfig, PruneConfig, SgdConfig, stages
from nhn_tf.stages.feed import load_feed, uses_validation, work_of_an_image
from nhn_tf.storage import files


def behind(
    name: str, settings: Mapping[str, Settings], directory: RunDirectory, others: Sequence[RunDirectory] = ()
) -> Behind | None:
    """What the run will take after a stage; None where that is not known of all its stages.

    Args:
      name: of the stage.
      settings: of all stages of the run, in their order.
      directory: the run's.
      others: runs that may have finished stages of the same settings.
    """
    data = load_feed(settings[name]).data
    images = {stage: _images(asked, len(data.train), len(data.val)) for stage, asked in settings.items()}
    seconds, rest, count = 0.0, 0.0, 0
    names = list(settings)
    for stage in names[names.index(name) + 1 :]:
        asked = settings[stage]
        if directory.stage(stage).is_done:
            continue
        took = _elsewhere(stage, asked, others)
        if took is None and _is_of_base(stage) and not (_is_of_base(name) and _alike(asked, settings[name])):
            price = _price(asked, settings, directory, images)
            took = None if price is None else price * images[stage]
        if took is not None:
            seconds += took
        elif _is_of_base(stage) and _is_of_base(name):
            rest, count = rest + images[stage], count + 1
        else:
            return None
    return Behind(seconds, rest * _length(settings[name]) / images[name], count, is_planned=False)


def _elsewhere(stage: str, asked: Settings, others: Sequence[RunDirectory]) -> float | None:
    """Seconds that a stage of these settings took in other runs, the mean; None where none has finished it."""
    took = []
    for run in others:
        with contextlib.suppress(files.DamagedFileError):  # that run will say so itself
            record = run.stage(stage)
            if record.is_done and _asked(record.config) == _asked(asked.to_json()):
                took.append(record.done.wall_s)
    return statistics.fmean(took) if took else None


def _asked(config: Mapping[str, Any]) -> Any:
    """What decides how long a stage takes, of settings as JSON."""
    return json.loads(json.dumps({part: config[part] for part in ("data", "compute", "config")}))


def _price(
    asked: Settings, settings: Mapping[str, Settings], directory: RunDirectory, images: Mapping[str, float]
) -> float | None:
    """Seconds for an image in a stage of the run that has finished: the last one alike, or the last of all."""
    done = [stage for stage in settings if _is_of_base(stage) and directory.stage(stage).is_done]
    done = [stage for stage in done if not isinstance(settings[stage].config, PruneConfig)]
    if not done:
        return None
    nearest = [stage for stage in done if _alike(asked, settings[stage])] or done
    return directory.stage(nearest[-1]).done.wall_s / images[nearest[-1]]


def _is_of_base(stage: str) -> bool:
    """Whether a stage computes the network that `base` trains, pruned and grown or not."""
    return stage == "base" or stages.find(stage).inherits


def _alike(one: Settings, other: Settings) -> bool:
    """Whether both train a network, or both search for add-ons."""
    return isinstance(one.config, LdsConfig) == isinstance(other.config, LdsConfig)


def _images(asked: Settings, train: int, val: int) -> float:
    """How many images a stage trains on, if there are so many for each; one that is only measured is a third."""
    config = asked.config
    if isinstance(config, LdsConfig):
        measured = config.fitness_batches * config.fitness_batch_size
        return config.cycles * config.population * (config.iterations * config.batch_size + measured / 3)
    images = train + (val if uses_validation(config) else 0)
    return images * (_length(asked) * work_of_an_image(config) if _trains(asked) else 1 / 3)


def _length(asked: Settings) -> int:
    """Epochs or cycles of a stage."""
    config = asked.config
    return config.cycles if isinstance(config, LdsConfig) else asked.expect(SgdConfig).epochs


def _trains(asked: Settings) -> bool:
    """Pruning at once trains nothing."""
    return not isinstance(asked.config, PruneConfig) or asked.config.schedule == "gradual"

"""The batches of one stage: training with augmentation, validation and test without."""

from __future__ import annotations

import functools

from nhn_tf import training
from nhn_tf.data import datasets
from nhn_tf.data.batches import Batches, Normalization
from nhn_tf.data.mixing import Mixing
from nhn_tf.errors import UserError
from nhn_tf.runs import Settings
from nhn_tf.settings import Config, DataConfig, FinalConfig, GradientConfig, RetrainConfig, TrainConfig


class Feed:
    """The batches of one stage: training with augmentation, validation and test without."""

    def __init__(self, data: datasets.Dataset, settings: Settings):
        self.data = data
        self._settings = settings
        self._normalization = Normalization.of(data.train)
        self.balanced = datasets.is_balanced(settings.data, data)
        self.validation = self._plain(data.val)
        self.test = self._plain(data.test)

    def objective(self, split: datasets.Split) -> Batches:
        """The batches by which searches choose: where classes are balanced, each counts the same."""
        return self._plain(split, balanced=self.balanced)

    def train(self, config: GradientConfig, *, with_validation: bool = False) -> Batches:
        """Shuffled, augmented batches of the training images, on request with the validation images among them."""
        split = self.data.train.joined(self.data.val) if with_validation else self.data.train
        recipe = config if isinstance(config, TrainConfig) else TrainConfig()
        mixing = Mixing(self.data.num_classes, cutmix=recipe.cutmix, mixup=recipe.mixup)
        return Batches(
            split,
            batch_size=config.batch_size,
            normalization=self._normalization,
            augmentation=datasets.augmentation_for(self._settings.data, self.data, cutout=config.cutout),
            shuffle=True,
            seed=self._settings.seed,
            drop_remainder=True,
            balanced=self.balanced,
            mixing=mixing if recipe.cutmix or recipe.mixup else None,
            trivial=recipe.trivial_augment,
        )

    def _plain(self, split: datasets.Split, *, balanced: bool = False) -> Batches:
        return Batches(
            split,
            batch_size=min(self._settings.compute.eval_batch_size, len(split)),
            normalization=self._normalization,
            shuffle=False,
            seed=0,
            drop_remainder=False,
            balanced=balanced,
        )


def load_feed(settings: Settings) -> Feed:
    """The batches that the settings name."""
    feed = Feed(_load(settings.data, settings.seed), settings)
    size = settings.config.batch_size if isinstance(settings.config, GradientConfig) else 1
    images = len(feed.data.train) + (len(feed.data.val) if uses_validation(settings.config) else 0)
    if size > images:
        raise UserError(f"`batch_size` must not exceed the {images} training images. Received: {size}.")
    if isinstance(settings.config, GradientConfig):
        training.check_batch_size(size)
    return feed


def forget_data() -> None:
    """Lets go of the data set that is kept for the next stage: its file holds others by now."""
    _load.cache_clear()


@functools.lru_cache(maxsize=1)
def _load(config: DataConfig, seed: int) -> datasets.Dataset:
    """The data set; kept for the next stage of the same process."""
    return datasets.load(config, seed=seed)


def uses_validation(config: Config) -> bool:
    return isinstance(config, FinalConfig) and config.train_on_validation


def is_taught(config: Config) -> bool:
    """Whether a stage's network learns from the base network's answers too."""
    return isinstance(config, RetrainConfig) and config.distill > 0


def work_of_an_image(config: Config) -> float:
    """What a training step takes for an image, in units of one without a teacher, whose answer is a third of that."""
    return 4 / 3 if is_taught(config) else 1.0

"""The hyperparameters: a frozen dataclass for the data, one for the computing, and one for each stage.

The defaults are the paper's, or ENAS's where the paper adopts them ("ENAS" below is Pham et al. 2018 and its released
code).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from nhn_tf.settings.field import Config, setting
from nhn_tf.values.form import LAYER_FORMS, REDUCTIONS, Form
from nhn_tf.values.space import MAX_LAYERS, OP_NAMES, Space

# Networks for small images: larger ones are to be scaled.
MAX_IMAGE_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """Which images, and how they are split and augmented (paper, section 3)."""

    dataset: str = setting(
        "cifar10", "data set: cifar10, cifar100, any TFDS image-classification name, folder, csv, or digits"
    )
    data_dir: str = setting(
        "",
        "where the data set lies or is downloaded to; for folder the folder itself, for csv the file of "
        "path,label[,split]",
    )
    cache_dir: str = setting("", "where decoded pictures are kept; by default ~/.cache/nhn_tf")
    val_fraction: float = setting(
        0.1, "share of the training images held out for validation", low=0.01, high=0.9, source="ENAS: 5k of 50k"
    )
    image_size: int = setting(
        0,
        "side to scale and crop the images to; 0 keeps them, and chooses one for pictures that differ in size",
        unit="pixels",
        low=0,
        high=MAX_IMAGE_SIZE,
    )
    train_limit: int = setting(
        0, "use only that many training images, stratified; 0 uses all", unit="images", low=0, high=10**9
    )
    eval_limit: int = setting(
        0,
        "use only that many validation and test images each, stratified; 0 uses all",
        unit="images",
        low=0,
        high=10**9,
    )
    pad: int = setting(
        -1,
        "padding before the random crop; -1 is in proportion, 4 at 32, or none where a measurement on images of one's "
        "own speaks against it",
        unit="pixels",
        low=-1,
        high=256,
    )
    flip: str = setting(
        "auto",
        "flip left and right at random; auto: where the data set allows it, measured on images of one's own",
        choices=("auto", "on", "off"),
    )
    class_weights: str = setting(
        "auto",
        "balanced: images of rare classes are drawn more often, and searches look at balanced accuracy; "
        "auto: where the largest class has more than three times the images of the smallest",
        choices=("auto", "none", "balanced"),
    )


@dataclasses.dataclass(frozen=True)
class ComputeConfig(Config):
    """How the numbers are computed; shared by all stages."""

    precision: str = setting("float32", "arithmetic of the layers", choices=("float32", "mixed_bfloat16"))
    steps_per_execution: int = setting(
        1, "training steps that TensorFlow runs in one call; more helps tiny models", unit="steps", low=1, high=1000
    )
    distribute: str = setting(
        "off",
        "train on every device: mirrored on TensorFlow, jax on JAX, there also those of several processes",
        choices=("off", "mirrored", "jax"),
    )
    eval_batch_size: int = setting(500, "batch size of every evaluation", unit="images", low=1, high=100_000)
    deterministic: bool = setting(
        False, "let the backend use nothing but operations that give the same bits at every run; slower on GPUs"
    )
    on_nan: str = setting(
        "stop",
        "when loss or gradient is no longer finite: stop, or go back to the last checkpoint at half the learning rate",
        choices=("stop", "rollback"),
    )
    checkpoint_minutes: float = setting(
        10.0, "save within an epoch or cycle too when so long has passed", unit="minutes", low=0, high=1e6
    )


@dataclasses.dataclass(frozen=True)
class GradientConfig(Config):
    """Gradient descent as every stage uses it: Nesterov, L2, clipping, a falling learning rate."""

    batch_size: int = setting(128, "images in a training step", unit="images", low=1, high=65_536, source="ENAS")
    lr_max: float = setting(
        0.05, "learning rate at the start of each period", low=1e-8, high=10, source="paper, section 2.1"
    )
    lr_min: float = setting(
        0.001, "learning rate at the end of each period", low=0, high=10, source="paper, section 2.1; ENAS: 0.0005"
    )
    momentum: float = setting(0.9, "Nesterov momentum", low=0, high=0.9999, source="paper, section 3")
    l2: float = setting(
        2e-4, "L2 regularisation: l2 * sum(w^2) over every trained weight", low=0, high=1, source="paper, section 3"
    )
    clip_norm: float = setting(
        5.0, "largest norm of the whole gradient; 0 switches clipping off", low=0, high=1e6, source="paper, section 3"
    )
    cutout: int = setting(
        -1,
        "side of the square cutout hides; 0 is none, -1 in proportion, 16 at 32",
        unit="pixels",
        low=-1,
        high=1024,
        source="paper, section 2.1",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_min > self.lr_max:
            raise ValueError(f"`lr_min` must not exceed lr_max={self.lr_max:g}. Received: {self.lr_min:g}.")


@dataclasses.dataclass(frozen=True)
class SgdConfig(GradientConfig):
    """Gradient descent over epochs: a cosine with warm restarts."""

    epochs: int = setting(310, "passes over the training images", unit="epochs", low=1, high=100_000, source="ENAS")
    lr_period_epochs: int = setting(
        10,
        "length of the first cosine period; 0: one period, no restart",
        unit="epochs",
        low=0,
        high=10**6,
        source="ENAS",
    )
    lr_period_mult: int = setting(2, "each period is so many times the one before", low=1, high=10, source="ENAS")
    warmup_epochs: float = setting(
        0.0, "linear rise of the learning rate from 0 before the cosine", unit="epochs", low=0, high=1000
    )


@dataclasses.dataclass(frozen=True)
class EnasConfig(SgdConfig):
    """Architecture search: a controller trained with REINFORCE over one shared supernet (paper 2.1; ENAS 2.2, 2.3)."""

    num_layers: int = setting(12, "layers of the space", low=1, high=MAX_LAYERS, source="paper, section 2.1")
    num_segments: int = setting(3, "stretches of equal map size", low=1, high=3, source="paper, section 2.3")
    ops: tuple[str, ...] = setting(
        OP_NAMES, f"operations a layer may choose, among {','.join(OP_NAMES)}, and registered ones", source="ENAS"
    )
    supernet_filters: int = setting(
        36, "channels of every layer of the supernet", unit="channels", low=2, high=1024, source="ENAS"
    )
    l2: float = setting(2.5e-4, "L2 regularisation of the shared weights", low=0, high=1, source="ENAS")
    cutout: int = setting(
        0, "side of the square cutout hides; 0 is none, -1 in proportion, 16 at 32", unit="pixels", low=-1, high=1024
    )
    keep_prob: float = setting(
        1.0,
        "share of the classifier's inputs that dropout keeps",
        low=0.05,
        high=1,
        source="paper, section 2.1: none; ENAS: 0.9",
    )
    reward_bn: str = setting(
        "moving", "statistics batch norm uses when rewards are measured", choices=("moving", "batch")
    )
    reward_batch_size: int = setting(
        128, "validation images in one reward", unit="images", low=1, high=100_000, source="ENAS"
    )
    paired_fitness: bool = setting(
        False,
        "measure all architectures of a controller update on the same images, each against the mean of the others "
        "in place of the moving baseline",
        source="Kool, van Hoof & Welling 2019: the mean of the others",
    )
    controller_units: int = setting(64, "units of the controller's LSTM", low=1, high=4096, source="ENAS")
    controller_lr: float = setting(1e-3, "learning rate of the controller's Adam", low=1e-8, high=1, source="ENAS")
    controller_beta_1: float = setting(0.0, "Adam's first-moment decay", low=0, high=0.9999, source="ENAS")
    controller_epsilon: float = setting(1e-3, "Adam's epsilon", low=1e-12, high=1, source="ENAS")
    controller_steps: int = setting(50, "controller updates an epoch", unit="steps", low=0, high=100_000, source="ENAS")
    samples_per_step: int = setting(
        20, "architectures averaged in one controller update", low=1, high=10_000, source="ENAS"
    )
    tanh_constant: float = setting(1.5, "logits are squashed to +- this", low=0.01, high=100, source="ENAS")
    temperature: float = setting(0.0, "divides the logits before the tanh; 0 switches it off", low=0, high=1000)
    baseline_decay: float = setting(
        0.99, "decay of the moving-average baseline of the reward", low=0, high=1, source="ENAS"
    )
    entropy_weight: float = setting(1e-4, "weight of the samples' entropy", low=0, high=100, source="ENAS")
    skip_target: float = setting(0.4, "wanted share of skips", low=0.01, high=0.99, source="ENAS")
    skip_weight: float = setting(
        0.8, "weight of the KL divergence from the wanted share of skips", low=0, high=100, source="ENAS"
    )
    final_samples: int = setting(
        1000, "architectures sampled at the end and ranked on the whole validation split", low=1, high=1_000_000
    )
    top_k: int = setting(10, "best that a searcher keeps of the ranking; trials.csv has all", low=1, high=1_000_000)
    random_control: bool = setting(True, "also rank as many random architectures (the control of Li & Talwalkar 2019)")
    random_probes: int = setting(
        0, "random architectures measured after each epoch too, for a curve of the control", low=0, high=10_000
    )
    objective: str = setting(
        "accuracy",
        "what is maximised: validation accuracy, the paper's figure of merit, or accuracy weighed against live "
        "parameters, multiply-adds, or time in the sparse runtime on this machine",
        choices=("accuracy", "score", "params", "flops", "latency"),
        source="paper, section 2.1: accuracy",
    )
    cost_target: float = setting(
        0.0,
        "live parameters, multiply-adds or milliseconds aimed at; 0: what random architectures have on average",
        low=0,
        high=1e15,
    )
    cost_weight: float = setting(
        0.07,
        "how much cost counts: accuracy is multiplied by (target / cost) to this power",
        low=0,
        high=1,
        source="Tan et al. 2019",
    )
    cost_filters: int = setting(
        0,
        "channels in the first segment of the network whose cost counts; 0: as many as the supernet has",
        unit="channels",
        low=0,
        high=4096,
    )
    cost_sparsity: float = setting(
        0.85, "share of its 3x3 and 5x5 kernels that are taken to be pruned", low=0, high=0.9999
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.space  # noqa: B018 - checks layers against segments
        if self.paired_fitness and self.samples_per_step < 2:
            raise ValueError(
                "`paired_fitness` compares architectures: `samples_per_step` must be at least 2. Received: 1."
            )

    @property
    def space(self) -> Space:
        return Space(self.num_layers, self.num_segments, self.ops)


@dataclasses.dataclass(frozen=True)
class TrainConfig(SgdConfig):
    """Training of a derived network (paper, sections 2.1 and 3)."""

    dropout: float = setting(
        0.0, "share of the classifier's inputs dropped", low=0, high=0.95, source="paper, section 2.1: final stage only"
    )
    label_smoothing: float = setting(0.0, "share of the target spread over all classes", low=0, high=0.5)
    cutmix: float = setting(
        0.0,
        "share of the training images that get a rectangle of another, and as much of its label",
        low=0,
        high=1,
        source="Yun et al. 2019",
    )
    mixup: float = setting(
        0.0,
        "share of the training images that are blended with another, and their labels as much; none of those of cutmix",
        low=0,
        high=1,
        source="Zhang et al. 2018",
    )
    trivial_augment: bool = setting(
        False,
        "one random change of colour or geometry to each training image, of random strength, before all others",
        source="Müller & Hutter 2021, wide",
    )
    ema: float = setting(
        0.0, "decay of the moving average that replaces the weights at the end; 0 is off", low=0, high=0.99999
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cutmix + self.mixup > 1:
            raise ValueError(
                f"`cutmix` and `mixup` are shares of the same images: together 1 at most. "
                f"Received: {self.cutmix:g} and {self.mixup:g}."
            )


@dataclasses.dataclass(frozen=True)
class BaseConfig(TrainConfig):
    """The base network and its training (paper, sections 2.1, 2.2). Later stages inherit the network's form."""

    genotype: str = setting("", "train this architecture, a file in ENAS's text form, instead of the search's result")
    filters: int = setting(
        Form.filters, "channels in the first segment", unit="channels", low=2, high=4096, source="ENAS"
    )
    width_growth: int = setting(
        Form.width_growth, "the channels are multiplied by this at each transition", low=1, high=4, source="ENAS"
    )
    separable_as_dense: bool = setting(
        Form.separable_as_dense,
        "build separable convolutions as full ones: only full kernels can be pruned",
        source="ENAS's released code",
    )
    smooth_init: bool = setting(
        Form.smooth_init, "smooth 3x3 and 5x5 kernels by a Gaussian after initialisation", source="paper, section 2.2"
    )
    layer_form: str = setting(
        Form.layer_form,
        "what stands around an op; mixed: 1x1 convolutions before and behind; release: the same in the order of ENAS's "
        "code; direct: none, but where skips are joined",
        choices=LAYER_FORMS,
        source="ENAS: mixed",
    )
    reduction: str = setting(
        Form.reduction,
        "what halves maps; avg_pool: an average pooling and a 1x1 convolution",
        choices=REDUCTIONS,
        source="ENAS: factorized; paper: average pooling",
    )

    @property
    def form(self) -> Form:
        """What the network looks like beyond its genotype."""
        return Form(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Form)})


@dataclasses.dataclass(frozen=True)
class BaselineConfig(TrainConfig):
    """A plain network to compare with: three stages of two convolutions, what one would write oneself."""

    filters: int = setting(32, "channels in the first stage", unit="channels", low=1, high=4096)
    epochs: int = setting(100, "passes over the training images", unit="epochs", low=1, high=100_000)
    lr_period_epochs: int = setting(
        0, "length of the first cosine period; 0: one period, no restart", unit="epochs", low=0, high=10**6
    )


@dataclasses.dataclass(frozen=True)
class PruneConfig(SgdConfig):
    """Pruning of k x k kernels (paper, section 2.2), and of 1x1 ones where that is asked for.

    The gradient settings serve the gradual schedule only.
    """

    threshold: str = setting(
        "auto", "prune kernels whose sensitivity is below this number; auto: find it for `sparsity`"
    )
    sparsity: float = setting(
        0.85, "share of the 3x3 and 5x5 kernels to prune, with `threshold`=auto", low=0, high=0.9999,
        source="paper, section 2.2",
    )  # fmt: skip
    pointwise_sparsity: float = setting(
        0.0, "share of the weights of 1x1 convolutions to prune, the smallest ones; 0: none", low=0, high=0.9999,
        source="paper, section 2.2: none",
    )  # fmt: skip
    scope: str = setting(
        "global",
        "where the sparsity holds: over all layers together, in each, or over all in units of each layer's initial "
        "sensitivity, in which `threshold` is given then",
        choices=("global", "layer", "normalized"),
        source="paper, section 2.2: global",
    )
    criterion: str = setting(
        "std", "sensitivity of a kernel", choices=("std", "l1", "l2", "random"), source="paper, section 2.2: std"
    )
    schedule: str = setting(
        "oneshot",
        "prune at once, or along a cubic ramp while training",
        choices=("oneshot", "gradual"),
        source="paper: at once",
    )
    epochs: int = setting(30, "length of the gradual schedule", unit="epochs", low=1, high=100_000)
    lr_period_epochs: int = setting(
        0, "length of the first cosine period; 0: one period, no restart", unit="epochs", low=0, high=10**6
    )
    recalibrate: bool = setting(
        False, "measure batch norm's statistics anew on the training images after pruning", source="paper: not said"
    )
    control: bool = setting(False, "also measure random pruning at the same sparsity")
    allow_disconnected: bool = setting(False, "let a layer lose all its kernels; else its strongest one stays")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold != "auto":
            try:
                legal = 0 <= float(self.threshold) < math.inf
            except ValueError:
                legal = False
            if not legal:
                raise ValueError(f"`threshold` must be auto or a number of at least 0. Received: {self.threshold!r}.")

    def replaced(self, **values: Any) -> PruneConfig:
        if "sparsity" in values and values.get("threshold", "auto") != "auto":
            raise ValueError("`threshold` and `sparsity` exclude each other; `sparsity` goes with `threshold`=auto.")
        return super().replaced(**values)


@dataclasses.dataclass(frozen=True)
class RetrainConfig(TrainConfig):
    """Training of a pruned or grown network (paper, sections 2.2 and 3): one cosine, no restart."""

    init: str = setting(
        "inherit",
        "start from the weights of the stage before, or from new ones",
        choices=("inherit", "scratch"),
        source="paper, section 3: three passes of training",
    )
    distill: float = setting(
        0.0,
        "weight of the base network's answers, of which the network learns beside the labels; 0: labels alone",
        low=0,
        high=1,
        source="Hinton et al. 2015; paper: labels alone",
    )
    distill_temperature: float = setting(
        4.0,
        "the answers of both are divided by this before the softmax",
        low=0.1,
        high=100,
        source="Hinton et al. 2015",
    )
    epochs: int = setting(
        160, "passes over the training images", unit="epochs", low=1, high=100_000, source="paper, section 3"
    )
    lr_period_epochs: int = setting(
        0,
        "length of the first cosine period; 0: one period, no restart",
        unit="epochs",
        low=0,
        high=10**6,
        source="paper, section 3",
    )


@dataclasses.dataclass(frozen=True)
class FinalConfig(RetrainConfig):
    """The last training (paper, section 3). Nothing is selected afterwards, so that it may use every image."""

    train_on_validation: bool = setting(
        True, "train on the validation images too; no validation accuracy is reported then", source="paper, section 3"
    )


@dataclasses.dataclass(frozen=True)
class LdsConfig(GradientConfig):
    """What both halves of the location-direction search share (paper, section 3 and algorithm 1)."""

    cycles: int = setting(300, "evolution cycles (T)", unit="cycles", low=1, high=1_000_000, source="paper, section 3")
    population: int = setting(20, "individuals (K)", low=2, high=10_000, source="paper, section 3")
    iterations: int = setting(
        25,
        "training steps of each individual in a cycle (M)",
        unit="steps",
        low=0,
        high=100_000,
        source="paper, section 3",
    )
    batch_size: int = setting(
        100, "images in a training step", unit="images", low=1, high=65_536, source="paper, section 3"
    )
    fitness_batches: int = setting(
        1, "batches that measure an individual's fitness (N)", low=1, high=100_000, source="paper, section 3"
    )
    fitness_batch_size: int = setting(
        500, "images in each of them", unit="images", low=1, high=100_000, source="paper, section 3"
    )
    paired_fitness: bool = setting(
        False, "measure all individuals of a cycle on the same batches", source="paper, algorithm 1: each on the next"
    )
    eval_split: str = setting(
        "val", "images that measure fitness; test is the paper's way and leaks", choices=("val", "test")
    )


@dataclasses.dataclass(frozen=True)
class LocationConfig(LdsConfig):
    """Search for the layers that add-on neurons join (paper, section 2.3)."""

    none_probability: float = setting(
        0.8, "probability of a gene without add-on neurons", low=0, high=1, source="paper, section 3"
    )
    mutation: str = setting(
        "regenerate",
        "how the last individuals are renewed",
        choices=("regenerate", "per_gene"),
        source="paper, section 3",
    )
    mutation_rate: float = setting(0.1, "share of the genes that per_gene mutation draws anew", low=0, high=1)
    random_control: bool = setting(True, "also measure as many random codes after the search")


@dataclasses.dataclass(frozen=True)
class DirectionConfig(LdsConfig):
    """Search for the connections of add-on neurons at given locations (paper, section 2.3)."""

    density: float = setting(
        0.1, "share of an add-on's kernels that are kept", low=1e-4, high=1, source="paper, section 2.3"
    )

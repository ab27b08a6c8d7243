"""What freezing the base saves: a training iteration of the location-direction search against one of the whole network.

    python benchmarks/lds_step.py

Times, on one thread, a training iteration (forward, backward, optimizer) of a network with dense kernels, and of the
supernet of add-ons around the same frozen network: under sampled location codes; under the code of a single add-on in
the last layer, below which nothing is passed backwards; and of the direction search at the first code's locations. The
same batch everywhere, interleaved, medians over all rounds. The paper counts on the saving (section 3). Add-ons cost
too: a code has 4.8 of them on average, each a whole k x k convolution. A few minutes. The last line is JSON; the ratios
are search / whole network (below 1 is a saving).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import turns

# isort: split
import keras
import numpy as np

from nhn_tf import training
from nhn_tf.models import DirectionSupernet, LocationSupernet, network, tile_genes, weights
from nhn_tf.search import Evolution
from nhn_tf.settings import LocationConfig
from nhn_tf.training import optimizers
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.space import Space


def main() -> None:
    parser = turns.parser(__doc__, filters=16, batch=50, rounds=5)
    parser.add_argument("--codes", type=int, default=5, help="how many location codes are sampled")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    space = Space(args.layers, ops=("conv3x3", "conv5x5"))
    genotype = Genotype.from_genes(space, space.sample(rng, skip_probability=0.4)[0])
    kind = {"input_shape": (args.size, args.size, 3), "num_classes": 10, "form": Form(filters=args.filters)}
    images, labels = turns.batch(args, rng)

    whole = _compiled(network.build(genotype, **kind))
    arrays = weights.to_arrays(whole)
    locations = LocationSupernet(genotype, **kind)
    locations.load_base(arrays)
    _compiled(locations)
    codes = Evolution(locations.locations, LocationConfig()).generate(args.codes, rng)
    last = locations.locations.from_addons([Addon(space.num_layers - 1, 3, 1)])
    directions = DirectionSupernet(
        dataclasses.replace(genotype, addons=locations.locations.to_addons(codes[0])), directions=2, **kind
    )
    directions.load_base(arrays)
    _compiled(directions)

    def step(model: keras.Model, genes: np.ndarray) -> Callable[[], object]:
        fed = {"images": images, "genes": tile_genes(genes, args.batch)}
        return lambda: model.train_on_batch(fed, labels)

    calls: list[tuple[str, Callable[[], object]]] = [("last_layer", step(locations, last))]
    for code in codes:
        calls.append(("whole", lambda: whole.train_on_batch(images, labels)))
        calls.append(("location", step(locations, code)))
    calls.append(("direction", step(directions, np.zeros(1, np.int32))))

    times = turns.take(calls, args.rounds, cpu_time=args.cpu_time)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    result = {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "n": {name: len(values) for name, values in times.items()},
        "addons": [int((code >= 0).sum()) for code in codes],
        "whole_ms": round(medians["whole"], 1),
    }
    for name in ("location", "direction", "last_layer"):
        ratio = medians[name] / medians["whole"]
        print(f"{name}: {medians[name]:.1f} ms, whole network {medians['whole']:.1f} ms, ratio {ratio:.3f}")
        result |= {f"{name}_ms": round(medians[name], 1), f"{name}_ratio": round(ratio, 3)}
    print(json.dumps(result))


def _compiled(model: keras.Model) -> keras.Model:
    optimizer = optimizers.nesterov(LocationConfig(), 0.05)
    training.compile_classifier(model, optimizer)
    return model


if __name__ == "__main__":
    main()

"""Loss and gradients that are no longer finite: told with step, rate and norm, and gone back from on request."""

import dataclasses

import keras
import numpy as np
import pytest

from nhn_tf import stages, training
from nhn_tf.data.batches import Batches
from nhn_tf.layers import backend
from nhn_tf.settings import SgdConfig
from nhn_tf.settings.stages import find
from nhn_tf.stages.resuming import MOST_ROLLBACKS, TrainingFailedError
from nhn_tf.storage import stopping
from nhn_tf.training.optimizers import Nesterov, make_schedule
from tests.conftest import before, newest_checkpoint, smoke_settings
from tests.test_resume import outcome, read_csv

ROLLBACK = {"on_nan": "rollback"}


def optimizer_on(weight, gradients, **options):
    """An optimizer that has taken the given gradients, float [n], of one weight."""
    variable = keras.Variable(np.full(1, weight, np.float32), name="w")
    optimizer = Nesterov(0.5, **options)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(np.full(1, gradient, np.float32))], [variable])
    return optimizer


@pytest.mark.jax
@pytest.mark.parametrize(
    ("gradients", "step", "norm"),
    [
        ([np.nan], 0, 0.0),
        ([3.0, -4.0, np.inf], 2, 4.0),
        ([3.0, np.nan, 5.0, np.inf], 1, 3.0),  # the first one counts
        ([1e30], 0, 0.0),  # finite, but its square is not: clipping makes NaN of it
    ],
)
def test_the_first_step_without_a_finite_gradient_is_kept(gradients, step, norm):
    divergence = optimizer_on(1.0, gradients).divergence()
    assert divergence.step == step
    assert divergence.norm == pytest.approx(norm)
    assert divergence.rate == pytest.approx(0.5)


@pytest.mark.jax
def test_finite_gradients_are_no_divergence_however_large():
    assert optimizer_on(1.0, [0.0, 1e15, -1e15]).divergence() is None
    assert Nesterov(0.1).divergence() is None  # it has not begun


@pytest.mark.jax
def test_the_rate_is_scaled_everywhere():
    config = SgdConfig(epochs=4, lr_max=0.8, lr_min=0.2, lr_period_epochs=2, warmup_epochs=1)
    whole, half = (make_schedule(config, 3, rate_scale=scale) for scale in (1.0, 0.5))
    for step in range(12):
        assert float(half(step)) == pytest.approx(float(whole(step)) / 2, rel=1e-6)


def poison(monkeypatch, *, epochs, times=1):
    """Makes the images of the given epochs NaN at batch 3 the first `times` times that they are asked for."""
    batch, left = Batches.batch, dict.fromkeys(epochs, times)

    def poisoned(self, epoch, index):
        images, labels = batch(self, epoch, index)
        if self.augmentation is not None and index == 3 and left.get(epoch, 0) > 0:
            left[epoch] -= 1
            images = np.full_like(images, np.nan)
        return images, labels

    monkeypatch.setattr(Batches, "batch", poisoned)


@pytest.mark.jax_slow
def test_a_diverged_training_stops_and_can_go_on_at_half_the_rate(smoke_run, tmp_path, monkeypatch):
    run = before(smoke_run, "base", tmp_path / "run")
    with monkeypatch.context() as patch:
        poison(patch, epochs=[1])
        with pytest.raises(TrainingFailedError) as error:
            stages.run("base", run, smoke_settings("base", compute={"checkpoint_minutes": 0.0}))
    message = str(error.value)
    # 8 steps an epoch; the 4th of the second epoch is the 12th.
    assert "stage 'base': the gradient is no longer finite at step 12 " in message
    assert "learning rate" in message and "norm of the gradient was" in message
    assert "The last good checkpoint, epoch 1, step 3, stays." in message
    assert "`on_nan`=rollback" in message
    newest = newest_checkpoint(run.stage("base"))
    assert (newest.epoch, newest.step) == (1, 3)

    with monkeypatch.context() as patch:
        poison(patch, epochs=[1])
        stages.run("base", run, smoke_settings("base", compute=ROLLBACK))
    done = run.stage("base").done.to_json()
    assert done["rate_scale"] == 0.5
    rates = [float(row["lr"]) for row in read_csv(run.stage("base") / "metrics.csv")]
    whole = [float(row["lr"]) for row in read_csv(smoke_run.stage("base") / "metrics.csv")]
    assert rates == pytest.approx([whole[0], whole[1] / 2, whole[2] / 2])
    assert all(np.isfinite(array).all() for array in run.stage("base").weights().values())


@pytest.mark.slow
def test_a_first_epoch_that_diverges_is_begun_again_from_the_very_weights(smoke_run, tmp_path, monkeypatch, capsys):
    run = before(smoke_run, "base", tmp_path / "run")
    with monkeypatch.context() as patch:
        poison(patch, epochs=[0], times=2)
        stages.run("base", run, smoke_settings("base", compute=ROLLBACK))
    assert run.stage("base").done.rate_scale == 0.25
    assert capsys.readouterr().out.count("Going back to the beginning, at half the learning rate.") == 2
    quarter, whole = before(smoke_run, "base", tmp_path / "quarter"), smoke_settings("base").config
    stages.run("base", quarter, smoke_settings("base", lr_max=whole.lr_max / 4, lr_min=whole.lr_min / 4))
    assert outcome(run, "base") == outcome(quarter, "base")


@pytest.mark.slow
def test_what_always_diverges_is_given_up(smoke_run, tmp_path, monkeypatch):
    run = before(smoke_run, "base", tmp_path / "run")
    poison(monkeypatch, epochs=[0], times=10**6)
    with pytest.raises(TrainingFailedError, match=f"diverged {MOST_ROLLBACKS + 1} times"):
        stages.run("base", run, smoke_settings("base", compute=ROLLBACK))


def inputs(run, stage):
    """What a searching stage builds on."""
    before = find(stage).after
    source = run.stage(before) if before else None
    return {"source": source, "input_genotype": source.genotype()} if source else {}


def slow_down(run, stage, settings, stop, *, at):
    """Runs a search, stopped at certain steps of its epochs; goes on from before each of these at half the rate."""
    for epoch, step in enumerate(at):
        stop(step)
        with pytest.raises(stopping.Stopped):
            stages.run(stage, run, settings)
        stopping.request(None)
        begun = run.ready(stage, settings, **inputs(run, stage)).begin(run.stage(stage).config["data_digest"])
        checkpoint = begun.load_checkpoint(whole_epochs=True)
        assert (checkpoint.epoch, checkpoint.step) == (epoch, 0)
        search = checkpoint.values["search"]
        values = {**checkpoint.values, "search": {**search, "rate_scale": search["rate_scale"] / 2}}
        begun.save_checkpoint(dataclasses.replace(checkpoint, values=values))
    stages.run(stage, run, settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "epochs", "steps"), [("enas", 2, 10), ("lds_location", 3, 4), ("lds_direction", 2, 4)]
)
def test_a_search_goes_back_to_its_last_whole_epoch(smoke_run, tmp_path, monkeypatch, stop, stage, epochs, steps):
    """Not to the steps behind it, which are saved as well, and with nothing left of those that diverged."""
    run, other = (before(smoke_run, stage, tmp_path / name) for name in ("run", "other"))
    with monkeypatch.context() as patch:
        poison(patch, epochs=[0, 1])
        stages.run(stage, run, smoke_settings(stage, compute={**ROLLBACK, "checkpoint_minutes": 0.0}))
    assert run.stage(stage).done.rate_scale == 0.25
    slow_down(other, stage, smoke_settings(stage, compute=ROLLBACK), stop, at=(1, steps + 1))
    assert outcome(run, stage) == outcome(other, stage)
    assert len(outcome(run, stage)["tables"]["metrics.csv"]) == epochs
    assert all(np.isfinite(array).all() for array in run.stage(stage).weights().values())


def test_determinism_is_asked_of_the_backend(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "make_deterministic", lambda: asked.append(True))
    compute = smoke_settings("base").compute
    training.set_up(compute)
    assert not asked
    training.set_up(dataclasses.replace(compute, deterministic=True))
    assert asked

"""The ENAS controller: its distribution, its gradient, its learning, its state."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy

from nhn_tf.search.controller import Controller, Policy, skip_divergence
from nhn_tf.settings import EnasConfig
from nhn_tf.values.space import Space

TINY = Space(num_layers=3, num_segments=1, ops=("conv3x3", "max_pool3x3"))  # 2^3 * 2^3 = 64 architectures

FOUR = Space(num_layers=4, num_segments=1)


def make(space: Space = TINY, *, seed: int = 3, **settings) -> Controller:
    return Controller(space, EnasConfig(**{"controller_units": 8, **settings}), seed=seed)


def policy(**kwargs) -> Policy:
    return Policy(TINY, **{"units": 8, "tanh_constant": 1.5, "temperature": 0.0, "seed": 0, **kwargs})


def scatter(controller: Controller) -> None:
    """Larger weights than the initial ones, so that the distribution is far from uniform."""
    rng = np.random.default_rng(0)
    for variable in controller.likelihood.policy.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))


@pytest.mark.jax_slow
def test_log_probabilities_of_a_whole_space_sum_to_one():
    controller = make()
    scatter(controller)
    log_prob = controller.likelihood.predict_on_batch(TINY.enumerate())["log_prob"]
    assert np.exp(log_prob.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)
    assert np.ptp(log_prob) > 1.0


def test_entropy_is_the_expected_surprise_of_the_space():
    controller = make()
    scatter(controller)
    outputs = controller.likelihood.predict_on_batch(TINY.enumerate())
    p = np.exp(outputs["log_prob"].astype(np.float64))
    # The entropy along a path is a sum of conditional entropies; its mean over the paths is the whole entropy.
    assert (p * outputs["entropy"]).sum() == pytest.approx(-(p * outputs["log_prob"]).sum(), abs=1e-4)


@pytest.mark.jax
def test_teacher_forced_log_prob_equals_the_samplers():
    controller = make(FOUR, controller_units=64)
    scatter(controller)
    noise = np.random.default_rng(1).random((16, FOUR.gene_length), dtype=np.float32)
    sampled = controller.sampler.predict_on_batch(noise)
    forced = controller.likelihood.predict_on_batch(sampled["genes"])
    np.testing.assert_allclose(forced["log_prob"], sampled["log_prob"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(forced["entropy"], sampled["entropy"], rtol=1e-4, atol=1e-4)


def test_samples_occur_as_often_as_their_log_prob_says():
    controller = make()
    scatter(controller)
    everything = TINY.enumerate()
    p = np.exp(controller.likelihood.predict_on_batch(everything)["log_prob"])
    samples = controller.sample(20_000, np.random.default_rng(5))
    code = 1 << np.arange(TINY.gene_length)
    counts = np.bincount(samples @ code, minlength=64)[everything @ code]
    np.testing.assert_allclose(counts / 20_000, p, atol=0.015)  # 4 standard deviations at p = 0.5


def test_a_fresh_controller_is_close_to_uniform_whatever_its_seed():
    for seed in (0, 1):
        log_prob = make(controller_units=64, seed=seed).likelihood.predict_on_batch(TINY.enumerate())["log_prob"]
        np.testing.assert_allclose(log_prob, -np.log(64), atol=0.1)


def test_samples_are_legal_architectures():
    for genes in make(FOUR).sample(50, np.random.default_rng(0)):
        FOUR.check_genes(genes)


def test_any_number_of_architectures_can_be_drawn():
    controller = make()
    assert controller.sample(1, np.random.default_rng(0)).shape == (1, 6)
    samples = controller.sample(130, np.random.default_rng(0))
    assert samples.shape == (130, 6)
    assert samples.dtype == np.int32
    np.testing.assert_array_equal(samples[:64], controller.sample(64, np.random.default_rng(0)))


def test_noise_at_its_bounds_gives_the_first_and_the_last_op():
    controller = make(FOUR)
    below_one = np.nextafter(np.float32(1), np.float32(0))
    noise = np.stack([np.zeros(FOUR.gene_length, np.float32), np.full(FOUR.gene_length, below_one)])
    lowest, highest = controller.sampler.predict_on_batch(noise)["genes"]
    # Noise 0 is below every skip probability, noise just below 1 above it.
    np.testing.assert_array_equal(lowest, [0] * 4 + [1] * 6)
    np.testing.assert_array_equal(highest, [5] * 4 + [0] * 6)


def test_logits_are_squashed_after_the_temperature():
    logits = np.array([[-100.0, 0.0, 1.0]], np.float32)
    # 1.5 tanh(-50), 0, 1.5 tanh(0.5)
    np.testing.assert_allclose(policy(temperature=2.0)._squash(logits), [[-1.5, 0.0, 0.693175]], atol=1e-5)
    np.testing.assert_allclose(policy()._squash(logits)[0, 2], 1.142391, atol=1e-5)  # off: 1.5 tanh(1)


def test_skip_divergence_is_zero_at_the_target_and_hand_worked_elsewhere():
    at_target = np.full((2, 3), np.log(0.4 / 0.6), np.float32)
    np.testing.assert_allclose(skip_divergence(at_target, 0.4), [0, 0], atol=1e-6)
    # Rate 1/2 everywhere: 0.5 ln(0.5/0.4) + 0.5 ln(0.5/0.6) = 0.020411 a bit; 3 bits over the 2 layers with skips.
    np.testing.assert_allclose(skip_divergence(np.zeros((1, 3), np.float32), 0.4), [0.0306165], atol=1e-6)
    assert np.isfinite(skip_divergence(np.full((1, 3), 200.0, np.float32), 0.4)).all()


def test_a_space_without_skips_works():
    controller = make(Space(num_layers=1, num_segments=1, ops=("conv3x3", "conv5x5")))
    genes = controller.sample(4, np.random.default_rng(0))
    assert genes.shape == (4, 1)
    assert controller.update(genes, np.ones(4))["skip_kl"] == 0


def expected_reward(controller: Controller, rewards: np.ndarray) -> float:
    log_prob = controller.likelihood.predict_on_batch(TINY.enumerate())["log_prob"]
    return float((np.exp(log_prob.astype(np.float64)) * rewards).sum())


def gradient_of_step(controller: Controller, genes: np.ndarray, advantages: np.ndarray) -> list[np.ndarray]:
    """The gradient that one training step follows: what plain SGD at rate 1 takes off the weights."""
    controller.likelihood.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    weights = controller.likelihood.policy.trainable_variables
    before = [np.array(convert_to_numpy(v)) for v in weights]
    controller.update(genes, advantages)
    return [old - convert_to_numpy(v) for old, v in zip(before, weights, strict=True)]


@pytest.mark.jax_slow
def test_reinforce_follows_the_gradient_of_the_expected_reward():
    controller = make(entropy_weight=0.0, skip_weight=0.0)
    scatter(controller)
    everything = TINY.enumerate()
    rewards = np.random.default_rng(2).random(len(everything))
    p = np.exp(controller.likelihood.predict_on_batch(everything)["log_prob"])
    weights = controller.likelihood.policy.trainable_variables
    before = [np.array(convert_to_numpy(v)) for v in weights]
    # The mean over all 64, each weighted by its probability, is the expectation itself.
    gradients = gradient_of_step(controller, everything, 64 * p * rewards)
    for variable, value in zip(weights, before, strict=True):
        variable.assign(value)
    for variable, value, gradient in zip(weights, before, gradients, strict=True):
        at = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        step = np.zeros_like(value)
        step[at] = 1e-2
        variable.assign(value + step)
        above = expected_reward(controller, rewards)
        variable.assign(value - step)
        below = expected_reward(controller, rewards)
        variable.assign(value)
        assert -gradient[at] == pytest.approx((above - below) / 2e-2, rel=0.02, abs=2e-5), variable.path


@pytest.mark.jax_slow
def test_updates_are_adams_also_where_many_architectures_share_an_op():
    rate, decay, epsilon = 0.01, 0.5, 1e-4
    controller = make(controller_lr=rate, controller_beta_1=decay, controller_epsilon=epsilon)
    plain = make()
    ours, theirs = (c.likelihood.policy.trainable_variables for c in (controller, plain))
    genes = TINY.enumerate()  # 64 architectures: in each layer 32 of them read the same embedding
    advantages = 10 * np.random.default_rng(3).normal(size=len(genes))
    first, second = [0.0] * len(ours), [0.0] * len(ours)
    for step in (1, 2, 3):
        before = [np.array(convert_to_numpy(v)) for v in ours]
        for variable, value in zip(theirs, before, strict=True):
            variable.assign(value)
        gradients = gradient_of_step(plain, genes, advantages)
        # Kingma & Ba 2015, section 2, with the bias corrections in the rate.
        first = [decay * m + (1 - decay) * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, gradients, strict=True)]
        corrected = rate * np.sqrt(1 - 0.999**step) / (1 - decay**step)
        controller.update(genes, advantages)
        for variable, value, m, v in zip(ours, before, first, second, strict=True):
            expected = value - corrected * m / (np.sqrt(v) + epsilon)
            np.testing.assert_allclose(convert_to_numpy(variable), expected, atol=2e-5, err_msg=variable.path)


def test_entropy_bonus_and_skip_penalty_enter_the_loss_with_their_weights():
    genes = TINY.enumerate()[:10]
    outputs = make().likelihood.predict_on_batch(genes)
    advantages = np.linspace(-1, 1, 10)
    logs = make(entropy_weight=0.5, skip_weight=0.25).update(genes, advantages)
    expected = np.mean(-advantages * outputs["log_prob"] - 0.5 * outputs["entropy"] + 0.25 * outputs["skip_kl"])
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)
    assert logs["entropy"] == pytest.approx(outputs["entropy"].mean(), rel=1e-5)
    assert logs["skip_kl"] == pytest.approx(outputs["skip_kl"].mean(), rel=1e-4)


def test_logs_are_of_one_update_not_of_all_so_far():
    controller = make(controller_lr=0.1)
    genes = TINY.enumerate()[:4]
    controller.update(genes, np.ones(4))
    expected = controller.likelihood.predict_on_batch(genes)["entropy"].mean()
    assert controller.update(genes, np.ones(4))["entropy"] == pytest.approx(expected, rel=1e-5)


def test_baseline_starts_at_the_first_reward_and_then_follows():
    controller = make(baseline_decay=0.9)
    assert controller.baseline is None
    # 0.5 - 0.5; 1.0 - 0.5; the baseline is then 0.55: 0.0 - 0.55
    np.testing.assert_allclose(controller.advantages(np.array([0.5, 1.0, 0.0])), [0.0, 0.5, -0.55], rtol=1e-6)
    assert controller.baseline == pytest.approx(0.495)


def learn(controller: Controller, steps: int) -> tuple[float, float]:
    """Trains on the share of layers with op 1; returns the mean reward of the first and the last steps."""
    history = []
    for step in range(steps):
        genes = controller.sample(10, np.random.default_rng((7, step)))
        rewards = genes[:, : controller.space.num_layers].mean(axis=1)
        controller.update(genes, controller.advantages(rewards))
        history.append(rewards.mean())
    return float(np.mean(history[:10])), float(np.mean(history[-10:]))


def test_learns_a_toy_reward():
    first, last = learn(make(controller_units=16, controller_lr=2e-2, baseline_decay=0.9), 120)
    assert first < 0.65
    assert last > 0.85


def test_skip_penalty_draws_the_skip_rate_to_its_target():
    controller = make(controller_units=16, controller_lr=2e-2, skip_target=0.2, skip_weight=5.0)
    rng = np.random.default_rng(0)
    for _ in range(60):
        controller.update(controller.sample(10, rng), np.zeros(10))
    assert controller.sample(400, rng)[:, 3:].mean() == pytest.approx(0.2, abs=0.05)


def test_same_seed_same_controller_and_another_seed_another():
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    starts = [controller.state_arrays()["controller/start"] for controller in (first, other)]
    assert not np.array_equal(*starts)
    learn(first, 3)
    learn(again, 3)
    assert first.baseline == again.baseline
    for path, array in first.state_arrays().items():
        np.testing.assert_array_equal(array, again.state_arrays()[path], err_msg=path)


@pytest.mark.jax_slow
def test_a_restored_controller_goes_on_bit_identically():
    whole = make()
    learn(whole, 3)
    arrays, values = whole.state_arrays(), json.loads(json.dumps(whole.state_values()))
    learn(whole, 3)
    resumed = make(seed=9)
    resumed.restore(arrays, values)
    learn(resumed, 3)
    assert resumed.baseline == whole.baseline
    for path, array in whole.state_arrays().items():
        np.testing.assert_array_equal(array, resumed.state_arrays()[path], err_msg=path)


def test_restore_refuses_another_controllers_state_and_changes_nothing():
    controller = make()
    before = controller.state_arrays()
    with pytest.raises(ValueError, match=r"misshapen: .*controller/"):
        controller.restore(make(controller_units=4).state_arrays(), {"baseline": 0.5})
    incomplete = {path: array for path, array in before.items() if path != "controller/start"}
    with pytest.raises(ValueError, match="missing: controller/start"):
        controller.restore(incomplete, {"baseline": 0.5})
    with pytest.raises(ValueError, match="unexpected: extra"):
        controller.restore({**before, "extra": np.zeros(1)}, {"baseline": 0.5})
    assert controller.baseline is None
    for path, array in controller.state_arrays().items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)


def test_bad_arguments_are_refused():
    controller = make()
    genes = controller.sample(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="`advantages` must be finite"):
        controller.update(genes, np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=r"Received: \[2, 6\] and \[2, 1\]"):
        controller.update(genes, np.ones((2, 1)))
    with pytest.raises(ValueError, match="`rewards` must be finite"):
        controller.advantages(np.array([np.inf]))


def test_variable_paths_do_not_depend_on_what_was_built_before():
    make()
    paths = list(make().state_arrays())
    assert paths[:3] == ["controller/start", "controller/lstm/kernel", "controller/lstm/recurrent_kernel"]
    assert all(path.startswith(("controller/", "controller_adam/")) for path in paths)


def test_policy_config_round_trips():
    original = policy(temperature=2.0, seed=4, name="controller")
    copy = Policy.from_config(original.get_config())
    original.build()
    copy.build()
    for ours, theirs in zip(original.weights, copy.weights, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(convert_to_numpy(ours), convert_to_numpy(theirs))

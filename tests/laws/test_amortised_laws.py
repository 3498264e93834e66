"""What holds for attacks that learn from examples: what is learned is an attack like any other, frozen for good."""

import pickle

import pytest
import torch
from toy import ATTACKS, CASES, Waves, brief, inputs, network, threat_of

from sparring.errors import BadInput
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.streams import Streams
from sparring.types import Amortised

SHAPE = (1, 6, 6)
every_learner = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kind in CASES if ATTACKS[name].amortised]
)


def learned(name, kind, model, x, goal):
    return brief(ATTACKS[name], threat_of(kind)).fit(model, x, goal, Streams.of(1, range(len(x))))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_registry_says_which_attacks_learn(name, kind):
    assert isinstance(brief(ATTACKS[name], threat_of(kind)), Amortised) == ATTACKS[name].amortised


@every_learner
def test_what_is_learned_attacks_other_rows_inside_the_threat_and_without_harm(name, kind):
    model, x, other = Waves(SHAPE), inputs(SHAPE, 40, 0), inputs(SHAPE, 30, 1)
    attack, goal = learned(name, kind, model, x, Untargeted(model(x).argmax(1))), Never(model(other).argmax(1))
    z = attack(model, other, goal, Streams.of(0, range(30)))
    assert attack.threat == threat_of(kind)
    assert attack.threat.contains(z, other).all()
    assert (margin(model(z), goal) >= margin(model(other), goal)).all()
    assert (margin(model(z), goal) > margin(model(other), goal)).float().mean() > 0.5
    assert attack(model, other[:0], goal[torch.arange(0)], Streams.of(0, [])).shape == (0, *SHAPE)


@every_learner
def test_the_same_examples_teach_the_same_in_any_order(name, kind):
    model, x = Waves(SHAPE), inputs(SHAPE, 24, 0)
    labels, order = model(x).argmax(1), torch.arange(23, -1, -1)
    first = learned(name, kind, model, x, Untargeted(labels))
    attack = brief(ATTACKS[name], threat_of(kind))
    again = attack.fit(model, x[order], Untargeted(labels[order]), Streams.of(1, order))
    goal, rng = Never(labels), Streams.of(0, range(24))
    assert torch.equal(first(model, x, goal, rng), again(model, x, goal, rng))


@every_learner
def test_what_was_learned_does_not_change_with_use(name, kind):
    model, x = Waves(SHAPE), inputs(SHAPE, 20, 0)
    goal, rng = Never(model(x).argmax(1)), Streams.of(0, range(20))
    attack = learned(name, kind, model, x, goal)
    z = attack(model, x, goal, rng)
    attack(Waves(SHAPE, high=2.0), x.flip(0), goal, rng.at("other"))
    assert torch.equal(attack(model, x, goal, rng), z)
    assert torch.equal(pickle.loads(pickle.dumps(attack))(model, x, goal, rng), z)


@every_learner
def test_what_was_learned_needs_no_gradients_any_more(name, kind):
    model, x = Waves(SHAPE), inputs(SHAPE, 20, 0)
    goal, rng = Never(model(x).argmax(1)), Streams.of(0, range(20))
    attack = learned(name, kind, model, x, goal)

    def scores(z):
        return model(z.detach()).detach()

    assert torch.equal(attack(scores, x, goal, rng), attack(model, x, goal, rng))
    with pytest.raises(BadInput, match="gradients"):
        learned(name, kind, scores, x, goal)


@every_learner
def test_learning_leaves_the_model_and_the_global_generator_alone(name, kind):
    model, x = network(), inputs(SHAPE, 20, 0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, generator, copy = [part.training for part in model.modules()], torch.get_rng_state(), x.clone()
    with torch.no_grad():
        learned(name, kind, model, x, Never(model(x).argmax(1)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(x, copy)


@every_learner
def test_without_examples_nothing_is_learned_and_nothing_breaks(name, kind):
    model, x = Waves(SHAPE), inputs(SHAPE, 5, 0)
    none = Untargeted(torch.zeros(0, dtype=torch.int64))
    attack = brief(ATTACKS[name], threat_of(kind)).fit(model, x[:0], none, Streams.of(0, []))
    z = attack(model, x, Never(model(x).argmax(1)), Streams.of(0, range(5)))
    assert attack.threat.contains(z, x).all()

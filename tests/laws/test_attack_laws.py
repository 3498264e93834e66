"""What holds for every attack of the registry, in every norm that it serves: a new attack is covered by registering."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ATTACKS, CASES, Duel, Waves, brief, fold, inputs, network, threat_of

from sparring.errors import BadInput
from sparring.goals import Never, Targeted, Untargeted
from sparring.losses import margin
from sparring.norms import NORMS
from sparring.streams import Streams

SHAPE = (1, 6, 6)
BOXES = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-2.5, 3.0)]

every_attack = pytest.mark.parametrize(("name", "norm"), CASES)
bounded = pytest.mark.parametrize(
    ("name", "norm"), [case for case in CASES if ATTACKS[case[0]].aims != "smallest perturbation"]
)


def shapes(name, norm):
    return (
        [SHAPE, (3, 5, 4)] if ATTACKS[name].shape == "image" or norm not in NORMS else [SHAPE, (3, 5, 4), (7,), (4, 3)]
    )


def found_or_refusal(attack, model, x, goal):
    try:
        return attack(model, x, goal, Streams.of(0, range(len(x))))
    except BadInput as refusal:
        return str(refusal)


@every_attack
@settings(max_examples=3)
@given(data=st.data())
def test_the_result_is_inside_the_threat_and_never_worse_than_the_input(name, norm, data):
    shape, box = data.draw(st.sampled_from(shapes(name, norm))), data.draw(st.sampled_from(BOXES))
    share, seed = data.draw(st.floats(0, 4)), data.draw(st.integers(0, 2**32))
    threat, model = threat_of(norm, *box, share=share), Duel(Waves(shape, *box))
    x = inputs(shape, 5, seed, *box).double()
    goal = data.draw(st.sampled_from([Untargeted, Never]))(model(x).argmax(1))
    z = brief(ATTACKS[name], threat)(model, x, goal, Streams.of(seed, range(5)))
    assert (z.shape, z.dtype) == (x.shape, x.dtype)
    assert ((z >= threat.low) & (z <= threat.high)).all()
    if ATTACKS[name].aims != "smallest perturbation":
        assert threat.contains(z, x).all()
    assert (margin(model(z), goal) >= margin(model(x), goal) - 1e-6).all()


@every_attack
def test_a_row_that_reaches_the_goal_already_still_does(name, norm):
    model, x = Waves(SHAPE), inputs(SHAPE, 8, 0)
    labels = model(x).argmax(1)
    labels[::2] = (labels[::2] + 1) % 5
    goal = Untargeted(labels)
    z = brief(ATTACKS[name], threat_of(norm))(model, x, goal, Streams.of(0, range(8)))
    assert goal.reached(model(z))[::2].all()
    everybody = Untargeted((model(x).argmax(1) + 1) % 5)
    z = brief(ATTACKS[name], threat_of(norm))(model, x, everybody, Streams.of(0, range(8)))
    assert everybody.reached(model(z)).all()


@every_attack
@pytest.mark.parametrize("goal", [Untargeted, Never])
def test_the_result_is_the_same_twice_and_rows_do_not_see_each_other(name, norm, goal):
    model, x = Waves(SHAPE), inputs(SHAPE, 12, 0)
    labels = model(x).argmax(1)

    def made():
        attack = brief(ATTACKS[name], threat_of(norm))
        if ATTACKS[name].amortised:  # it learns from rows together, and attacks each alone
            return attack.fit(model, x, goal(labels), Streams.of(1, range(12)))
        return attack

    attack = made()
    z = attack(model, x, goal(labels), Streams.of(0, range(12)))
    for again, company in ((made(), [11, 9, 8, 4, 1]), (attack, [7])):
        rows = torch.tensor(company)
        assert torch.equal(again(model, x[rows], goal(labels[rows]), Streams.of(0, rows)), z[rows])


@every_attack
def test_the_model_and_the_input_and_the_global_generator_are_left_alone(name, norm):
    model, x = network(), inputs(SHAPE, 6, 0)
    goal = Never(model(x).argmax(1))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    wants = [part.requires_grad for part in model.parameters()]
    version, before, generator = x._version, x.clone(), torch.get_rng_state()
    z = brief(ATTACKS[name], threat_of(norm))(model, x, goal, Streams.of(0, range(6)))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert [part.requires_grad for part in model.parameters()] == wants
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert all(part.grad is None for key, part in model.named_parameters() if key != "0.weight")
    assert torch.equal(x, before)
    assert x._version == version
    assert x.grad is None
    assert not z.requires_grad
    assert z.data_ptr() != x.data_ptr()
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.is_grad_enabled()


@every_attack
def test_it_works_where_gradients_are_switched_off_around_it(name, norm):
    model, x = network(), inputs(SHAPE, 6, 0)
    attack, goal, rng = brief(ATTACKS[name], threat_of(norm)), Never(model(x).argmax(1)), Streams.of(0, range(6))
    z = attack(model, x.clone().requires_grad_(), goal, rng)
    assert not z.requires_grad
    with torch.no_grad():
        assert torch.equal(attack(model, x, goal, rng), z)


@bounded
def test_at_eps_zero_the_result_is_the_input(name, norm):
    model, x = Waves(SHAPE), inputs(SHAPE, 6, 0)
    z = brief(ATTACKS[name], threat_of(norm, share=0))(
        model, x, Untargeted(model(x).argmax(1)), Streams.of(0, range(6))
    )
    assert torch.equal(z, x)


@every_attack
def test_a_target_is_approached_or_refused_in_one_line(name, norm):
    model, x, threat = Waves(SHAPE), inputs(SHAPE, 12, 3), threat_of(norm, share=3)
    goal = Targeted((model(x).argmax(1) + 1) % 5)
    z = found_or_refusal(brief(ATTACKS[name], threat), model, x, goal)
    if isinstance(z, str):
        assert "targeted goal" in z
        assert "\n" not in z
        return
    if ATTACKS[name].aims != "smallest perturbation":
        assert threat.contains(z, x).all()
    if ATTACKS[name].aims != "control":
        assert goal.reached(model(z)).any()
    assert (margin(model(z), goal) > margin(model(x), goal) - 1e-6)[goal.reached(model(z))].all()


@pytest.mark.parametrize(("name", "norm"), [case for case in CASES if case[1] in NORMS])
def test_a_point_whose_logits_tie_is_left(name, norm):
    """The margin is zero there, and so is the way to the boundary: no reason to stay, in whichever norm."""
    x, goal = torch.zeros(2, *SHAPE), Untargeted(torch.zeros(2).long())
    weight = Streams.of(0, range(5)).normal(36) * torch.tensor([[0.1], [1.0], [1.0], [1.0], [1.0]])

    def model(z):
        return fold(z.flatten(1).unsqueeze(1) * weight.to(z.dtype))

    z = brief(ATTACKS[name], threat_of(norm))(model, x, goal, Streams.of(1, range(2)))
    assert goal.reached(model(z)).all()


@every_attack
def test_no_rows_give_no_rows(name, norm):
    x = inputs(SHAPE, 0, 0)
    z = brief(ATTACKS[name], threat_of(norm))(Waves(SHAPE), x, Untargeted(torch.zeros(0).long()), Streams.of(0, []))
    assert z.shape == (0, *SHAPE)


class Falls:
    """Class 0 in the first `calls` calls, and in no later one; there is no answer to no question."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, z):
        if not len(z):
            raise ValueError("a batch without rows")
        self.calls -= 1
        first = torch.tensor([100.0 if self.calls >= 0 else -100.0, 0.0, 0.0, 0.0, 0.0])
        return Waves(SHAPE)(z) + first


@every_attack
def test_a_model_is_never_called_without_rows_whenever_all_of_them_fall(name, norm):
    x, labels = inputs(SHAPE, 3, 0), Untargeted(torch.zeros(3).long())
    for calls in (0, 1, 3):
        z = brief(ATTACKS[name], threat_of(norm))(Falls(calls), x, labels, Streams.of(0, range(3)))
        assert z.shape == x.shape


@every_attack
@pytest.mark.parametrize(
    ("given", "answered"),
    [(torch.float32, torch.float64), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)],
    ids=str,
)
def test_inputs_and_outputs_may_be_of_any_type_and_points_are_of_that_of_the_inputs(name, norm, given, answered):
    model, x, threat = Waves(SHAPE), inputs(SHAPE, 4, 0).to(given), threat_of(norm)
    labels = model(x).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    z = brief(ATTACKS[name], threat)(lambda z: model(z).to(answered), x, Untargeted(labels), Streams.of(0, range(4)))
    assert (z.shape, z.dtype) == (x.shape, x.dtype)
    assert ((z >= threat.low) & (z <= threat.high)).all()


@every_attack
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_model_that_gives_no_numbers_is_no_success(name, norm, wrong):
    threat, x = threat_of(norm), inputs(SHAPE, 4, 0)
    labels = torch.zeros(4, dtype=torch.int64)

    def model(z):
        return Waves(SHAPE)(z) * 0 + torch.tensor([wrong, 1.0, 2.0, 3.0, 4.0])

    z = brief(ATTACKS[name], threat)(model, x, Untargeted(labels), Streams.of(0, range(4)))
    assert threat.contains(z, x).all()


@every_attack
@pytest.mark.parametrize("trainable", [False, True])
def test_a_model_without_gradients_is_refused_in_one_line_or_attacked_all_the_same(name, norm, trainable):
    """Where weights can be trained, outputs have a graph, and only its end shows that it leads nowhere."""
    model, x = Waves(SHAPE), inputs(SHAPE, 4, 0)
    attack, goal = brief(ATTACKS[name], threat_of(norm)), Untargeted(model(x).argmax(1))
    one = torch.ones(1, requires_grad=trainable)

    def scores(z):
        return model(z.detach()).detach() * one

    if ATTACKS[name].needs == "gradients":
        with pytest.raises(BadInput, match="gradients"):
            attack(scores, x, goal, Streams.of(0, range(4)))
    else:
        assert torch.equal(
            attack(scores, x, goal, Streams.of(0, range(4))), attack(model, x, goal, Streams.of(0, range(4)))
        )


@every_attack
def test_attacks_with_the_same_settings_are_equal_and_say_what_they_are(name, norm):
    attack = brief(ATTACKS[name], threat_of(norm))
    assert norm in repr(attack).lower()
    assert attack == brief(ATTACKS[name], threat_of(norm))
    assert hash(attack) == hash(brief(ATTACKS[name], threat_of(norm)))

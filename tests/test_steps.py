import math

import torch
from torch.testing import assert_close

from sparring.norms import L2, Linf
from sparring.steps import ascent, chain, cosine, momentum, nesterov, scale
from sparring.streams import Streams

G = Streams.of(0, range(3)).normal(2, 4)
X = torch.zeros(3, 2, 4)


def moves(step, gradients):
    state, given = step.init(X), []
    for i, g in enumerate(gradients):
        move, state = step.update(g, state, i)
        given.append(move)
    return given


def test_a_chain_feeds_each_move_to_the_next_rule():
    (move,) = moves(chain(scale(2.0), ascent(L2()), scale(0.5)), [G])
    assert_close(move, 0.5 * G / G.flatten(1).norm(dim=1).view(-1, 1, 1))
    (same,) = moves(chain(), [G])
    assert same is G


def test_chains_with_the_same_rules_are_equal():
    assert chain(momentum(1.0), ascent(Linf())) == chain(momentum(1.0), ascent(Linf()))
    assert chain(scale(1.0)) != chain(scale(2.0))


def test_momentum_is_equation_6_of_dong_et_al():
    first, second = moves(momentum(0.9), [G, 3 * G])
    unit = G / G.flatten(1).abs().mean(1).view(-1, 1, 1)
    assert_close(first, unit)
    assert_close(second, 0.9 * unit + unit)


def test_momentum_survives_a_zero_gradient():
    first, second = moves(momentum(1.0), [0 * G, G])
    assert (first == 0).all()
    assert second.isfinite().all()


def test_a_cosine_falls_from_its_size_to_nearly_nothing():
    sizes = [move.flatten()[0].item() for move in moves(cosine(2.0, 20), [torch.ones_like(G)] * 20)]
    assert sizes[0] == 2
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[-1] < 0.03 * 2
    assert math.isclose(sizes[10], 1 + math.cos(math.pi * 10 / 21), rel_tol=1e-6)


def test_nesterov_carries_the_point_ahead_of_the_one_in_the_paper():
    """Lin et al. (2020), equations 6 and 7, written out: the gradient is taken at `z + size decay v`."""
    size, decay = 0.1, 0.8

    def gradient(z):
        return torch.cos(3 * z + G)

    z, v, ahead = X, torch.zeros_like(X), []
    for _ in range(5):
        near = z + size * decay * v
        ahead.append(near)
        g = gradient(near)
        v = decay * v + g / g.flatten(1).abs().mean(1).view(-1, 1, 1)
        z = z + size * v.sign()

    step, carried = nesterov(Linf(), size, decay), X
    state = step.init(X)
    for i in range(5):
        assert_close(carried, ahead[i])
        move, state = step.update(gradient(carried), state, i)
        carried = carried + move


def test_a_state_can_be_cut_down_to_some_rows():
    rule = chain(momentum(0.9), ascent(Linf()), scale(0.1))
    _, state = rule.update(G, rule.init(X), 0)
    some = torch.tensor([2, 0])
    cut = tuple(None if part is None else part[some] for part in state)
    assert_close(rule.update(G[some], cut, 1)[0], rule.update(G, state, 1)[0][some])

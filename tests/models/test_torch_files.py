from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import nn

from sparring.errors import BadInput
from sparring.models import torch as adapter
from sparring.models.loading import adopt, load
from sparring.models.victim import frozen, inference, unwritten


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(1)
    model = net()
    model(torch.rand(64, 12))
    return model.eval()


class Wong(nn.Sequential):
    """The layers of the published Wong networks, with the flatten that both of their state dicts count."""

    def __init__(self, flatten: nn.Module) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            flatten,
            nn.Linear(32 * 7 * 7, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )


def test_a_module_is_its_own_victim_in_the_mode_it_is_in(trained):
    trained[2].train()
    victim = adopt(trained)
    assert victim.call is victim.module is trained
    assert (victim.framework, victim.access, victim.name) == ("torch", "gradients", "Sequential")
    assert [part.training for part in trained.modules()] == [False, False, False, True, False, False]


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_of_another_float_type_takes_float32_and_hands_its_gradient_back(trained, kind):
    victim, x = adopt(trained.to(kind)), torch.rand(3, 12, requires_grad=True)
    y = victim(x)
    y.sum().backward()
    assert torch.equal(y, trained(x.to(kind)))
    assert (y.dtype, x.grad.dtype) == (kind, torch.float32)
    assert x.grad.any()


def test_a_network_that_casts_its_inputs_itself_is_left_to_do_so(trained):
    class Casting(nn.Sequential):
        def forward(self, x):
            assert x.dtype == torch.float32
            return super().forward(x.double())

    model = Casting(trained.double()).eval()
    assert adopt(model)(torch.rand(3, 12)).dtype == torch.float64


def test_a_frozen_script_without_a_mode_is_put_into_inference_mode_all_the_same(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript itself is deprecated
        frozen_script = torch.jit.freeze(torch.jit.script(trained))
    with inference(frozen_script), unwritten(frozen_script):
        assert frozen_script(torch.rand(2, 12)).shape == (2, 3)


def test_buffers_that_were_written_or_replaced_come_back_as_they_were():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("written", torch.ones(2))
            self.register_buffer("replaced", torch.ones(2))

        def forward(self, x):
            self.written += 1
            self.replaced = self.replaced + 1
            return x

    model = Counting()
    kept = model.replaced
    with unwritten(model):
        model(torch.rand(1))
        assert model.written.sum() == model.replaced.sum() == 4
    assert model.replaced is kept
    assert model.written.sum() == model.replaced.sum() == 2


def test_a_lazy_network_makes_its_weights_where_the_others_are_frozen():
    network = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 3))
    with frozen(network):
        assert network(torch.rand(2, 4)).shape == (2, 3)
    assert all(weight.requires_grad for weight in network.parameters())


def test_a_torch_function_is_wrapped_explicitly(trained):
    victim = adapter.function(lambda x: trained(2 * x), name="doubled")
    x = torch.rand(3, 12, requires_grad=True)
    victim(x).sum().backward()
    assert x.grad.any()
    assert (victim.name, victim.access, victim.module) == ("doubled", "gradients", None)


def test_a_scripted_module_in_hand_has_gradients(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript itself is deprecated
        scripted = torch.jit.trace(trained, torch.rand(2, 12))
    x = torch.rand(3, 12, requires_grad=True)
    y = adopt(scripted)(x)
    y.sum().backward()
    torch.testing.assert_close(y, trained(x))
    assert x.grad.any()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {}},
        lambda s: {"model_state_dict": s},
        lambda s: [s],
        lambda s: {"module." + k: v for k, v in s.items()},
        lambda s: {"_orig_mod.module." + k: v for k, v in s.items()},
        lambda s: {"module._orig_mod." + k: v for k, v in s.items()},
        lambda s: {"state_dict": {"model." + k: v for k, v in s.items()}, "hyper_parameters": {"lr": 0.1}},
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_state_dicts_come_in_every_usual_wrapping(trained, tmp_path, wrap, suffix):
    torch.save(wrap(trained.state_dict()), tmp_path / f"weights{suffix}")
    model = net()
    adapter.load_weights(model, tmp_path / f"weights{suffix}")
    x = torch.rand(4, 12)
    assert torch.equal(model(x), trained(x))
    assert not any(part.training for part in model.modules())


def test_safetensors_are_loaded(trained, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="the extra 'safetensors' is not installed")
    safetensors.save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    model = net()
    adapter.load_weights(model, tmp_path / "weights.safetensors")
    assert torch.equal(model(torch.ones(2, 12)), trained(torch.ones(2, 12)))
    (tmp_path / "weights.safetensors").write_bytes(b"\x08cut short")
    with pytest.raises(BadInput, match="does not load"):
        adapter.load_weights(model, tmp_path / "weights.safetensors")


def test_a_state_dict_of_another_network_is_named_in_one_line(tmp_path):
    torch.save(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)).state_dict(), tmp_path / "w.pt"
    )
    with pytest.raises(BadInput) as error:
        adapter.load_weights(net(), tmp_path / "w.pt")
    said = str(error.value)
    assert "missing 2.weight, 2.bias, 2.running_mean and 4 more" in said
    assert "unexpected 3.weight, 3.bias" in said
    assert "1.weight (9, 12) for (8, 12)" in said
    assert "\n" not in said


def test_a_pickled_module_is_refused_without_trust(trained, tmp_path):
    torch.save(trained, tmp_path / "whole.pt")
    for attempt in (
        lambda: adapter.load_weights(net(), tmp_path / "whole.pt"),
        lambda: load(str(tmp_path / "whole.pt")),
    ):
        with pytest.raises(BadInput, match=r"pickle of more than tensors.*--trust"):
            attempt()
    model = net()
    adapter.load_weights(model, tmp_path / "whole.pt", trust=True)
    x = torch.rand(2, 12)
    assert torch.equal(model(x), trained(x))
    assert torch.equal(load(str(tmp_path / "whole.pt"), trust=True)(x), trained(x))


def test_a_file_that_holds_no_state_dict_is_refused_in_one_line(tmp_path):
    for held, said in (({"lr": 0.1, "epoch": 3}, "a dict of lr, epoch"), (torch.ones(3), "a Tensor"), ([], "a list")):
        torch.save(held, tmp_path / "w.pt")
        with pytest.raises(BadInput, match=f"holds {said}"):
            adapter.load_weights(net(), tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"text, not weights", b"PK\x03\x04 cut short"])
def test_a_damaged_file_of_weights_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(BadInput) as error:
        adapter.load_weights(net(), tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_weights_alone_are_not_a_model(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    for trust in (False, True):
        with pytest.raises(BadInput, match=r"weights without their network.*module:factory and --weights"):
            load(str(tmp_path / "w.pth"), trust=trust)


@pytest.mark.parametrize("bounds", [None, {}, {"min": 3, "max": 5}, {"min": 2, "max": 4}, {"min": 3}])
def test_an_exported_program_serves_any_number_of_rows_and_has_gradients(trained, tmp_path, bounds):
    shapes = None if bounds is None else ({0: torch.export.Dim("rows", **bounds)},)
    program = torch.export.export(trained, (torch.rand(4, 12),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(BadInput, match=r"an exported program, which torch unpickles.*--trust"):
        load(str(tmp_path / "net.pt2"))
    for victim in (adopt(program), load(str(tmp_path / "net.pt2"), trust=True)):
        assert (victim.framework, victim.access) == ("torch.export", "gradients")
        assert bool(victim.notes) is (bounds != {})
        assert victim(torch.rand(0, 12)).shape == (0, 3)
        for rows in (1, 4, 7):
            z = torch.rand(rows, 12, requires_grad=True)
            w = z.detach().clone().requires_grad_()
            y, want = victim(z), trained(w)
            torch.testing.assert_close(y, want)
            torch.testing.assert_close(
                torch.autograd.grad(y[:, 0].sum(), z)[0], torch.autograd.grad(want[:, 0].sum(), w)[0]
            )


def test_exported_programs_that_are_no_classifiers_or_still_train_are_refused_in_one_line():
    class Two(nn.Module):
        def forward(self, x):
            return x, 2 * x

    class Scalar(nn.Module):
        def forward(self, x):
            return x + 1

    cases = (
        (net().train(), torch.rand(4, 12), "exported in train mode"),
        (Two(), torch.rand(4, 12), "2 outputs"),
        (Scalar(), torch.tensor(1.0), "without a batch"),
    )
    for module, x, said in cases:
        with pytest.raises(BadInput, match=said):
            adopt(torch.export.export(module, (x,)))


def test_torchscript_files_need_trust(trained, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(trained, torch.rand(2, 12)).save(tmp_path / "net.ts")
        with pytest.raises(BadInput, match="TorchScript, which can write files"):
            load(str(tmp_path / "net.ts"))
        x = torch.rand(3, 12)
        torch.testing.assert_close(load(str(tmp_path / "net.ts"), trust=True)(x), trained(x))


def test_published_checkpoints_load_whatever_their_wrapping(sparring_data):
    class View(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    for name in ("wong_fgsm_mnist_linf0.3.pth", "wong_kolter_mnist_linf0.1.pth"):
        model = Wong(View())
        adapter.load_weights(model, sparring_data / "models" / name)
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.frameworks
def test_a_hugging_face_model_gives_its_logits_in_hand_and_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config)
    assert adopt(model).module.training == model.training
    model.eval()
    victim = adopt(model)
    assert (victim.framework, victim.access, victim.name) == ("transformers", "gradients", "ViTForImageClassification")
    x = torch.rand(3, 1, 8, 8, requires_grad=True)
    y = victim(x)
    y.sum().backward()
    torch.testing.assert_close(y, model(pixel_values=x).logits)
    assert x.grad.any()
    model.save_pretrained(tmp_path / "vit")
    torch.testing.assert_close(load(str(tmp_path / "vit"))(x), y)
    told = (tmp_path / "vit" / "config.json").read_text()
    mapped = json.dumps(json.loads(told) | {"auto_map": {"AutoConfig": "evil.Config"}})
    (tmp_path / "vit" / "config.json").write_text(mapped)
    with pytest.raises(BadInput, match="brings code of its own"):
        load(str(tmp_path / "vit"))
    (tmp_path / "vit" / "config.json").write_text(told)
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="does not load"):
        load(str(tmp_path / "vit"))

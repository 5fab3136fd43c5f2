"""One flat buffer behaves like the tensors it holds, and our AdamW like torch's."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.optimizers import make_optimizer
from gpu_worker.trainer.parameters import AdapterParameters, Slot

SLOTS = [
    Slot("m.q_proj.lora_A.weight", (4, 6)),
    Slot("m.q_proj.lora_B.weight", (5, 4), transposed=True),
    Slot("m.v_proj.lora_A.weight", (4, 6)),
]


def test_export_and_load_are_inverse_in_the_orientation_of_files():
    parameters = AdapterParameters(SLOTS)
    tensors = {slot.name: torch.randn(slot.shape) for slot in SLOTS}
    parameters.load(parameters.values, tensors)
    exported = parameters.export(parameters.values)
    assert all(torch.equal(exported[name], tensor) for name, tensor in tensors.items())
    assert parameters.views(parameters.values)["m.q_proj.lora_B.weight"].shape == (4, 5)


def test_tensors_of_another_shape_are_refused():
    parameters = AdapterParameters(SLOTS)
    with pytest.raises(ValueError, match="q_proj"):
        parameters.load(parameters.values, {slot.name: torch.zeros(2, 2) for slot in SLOTS})


def test_start_depends_on_seed_and_names_only():
    one, other = AdapterParameters(SLOTS), AdapterParameters(SLOTS[::-1])
    one.initialise(7)
    other.initialise(7)
    for name, tensor in one.export(one.values).items():
        assert torch.equal(tensor, other.export(other.values)[name])
        assert bool(tensor.any()) == (".lora_A." in name)
    other.initialise(8)
    assert not torch.equal(one.values.sort().values, other.values.sort().values)


@pytest.mark.parametrize(
    "chosen", [{}, {"adam_beta1": 0.5}, {"adam_beta2": 0.9}, {"adam_epsilon": 0.3}], ids=lambda chosen: "".join(chosen)
)
def test_adamw_and_clipping_equal_torch(chosen):
    parameters = AdapterParameters(SLOTS)
    parameters.initialise(1)
    reference = torch.nn.Parameter(parameters.values.clone())
    ours = make_optimizer(parameters, Hyperparameters(weight_decay=0.1, **chosen), device="cpu")
    usual = torch.nn.Parameter(parameters.values.clone())
    betas = (chosen.get("adam_beta1", 0.9), chosen.get("adam_beta2", 0.999))
    theirs = torch.optim.AdamW([reference], weight_decay=0.1, betas=betas, eps=chosen.get("adam_epsilon", 1e-8))
    unchanged = torch.optim.AdamW([usual], weight_decay=0.1)
    for step in range(20):
        gradient = torch.randn(parameters.count) * 3
        parameters.gradients.copy_(gradient)
        reference.grad, usual.grad = gradient.clone(), gradient.clone()
        for group in (*theirs.param_groups, *unchanged.param_groups):
            group["lr"] = 0.01 / (step + 1)
        assert ours.clip(1.0) == pytest.approx(float(torch.nn.utils.clip_grad_norm_([reference], 1.0)))
        torch.nn.utils.clip_grad_norm_([usual], 1.0)
        ours.update(0.01 / (step + 1))
        theirs.step()
        unchanged.step()
    assert torch.allclose(parameters.values, reference, atol=1e-6)
    assert torch.allclose(parameters.values, usual, atol=1e-4) == (not chosen)  # what was chosen matters
    assert not parameters.gradients.any()


def test_the_8_bit_optimizer_gets_the_same_moments():
    pytest.importorskip("bitsandbytes")
    chosen = Hyperparameters(optimizer="adamw_8bit", adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)
    one = make_optimizer(AdapterParameters(SLOTS), chosen, device="cpu")
    (group,) = one._optimizer.param_groups
    assert (tuple(group["betas"]), group["eps"]) == ((0.8, 0.95), 1e-6)


class FusedSteps(TorchDispatchMode):
    """Looks on while torch's fused kernel is called, and notes where its tensors lie."""

    devices: set[str]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_fused_adamw_" in str(func):
            self.devices = {tensor.device.type for tensors in args[:6] for tensor in tensors}
        return func(*args, **(kwargs or {}))


def test_everything_that_the_fused_kernel_reads_lies_on_one_device():
    parameters = AdapterParameters(SLOTS, device="meta")  # stands for a GPU: no test has one
    optimizer = make_optimizer(parameters, Hyperparameters(), device="meta")
    with FusedSteps() as seen:
        optimizer.update(0.001)
    assert seen.devices == {"meta"}

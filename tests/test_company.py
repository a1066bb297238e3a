"""A diffusion in PyTorch's company: pickled, copied, compiled, spread over processes and threads,
differentiated through its sampling, in any dtype, and around networks that are wrapped."""

import copy
import functools
import itertools
import pickle
import threading

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from anydiff import (
    DDIM,
    DDPM,
    Cosine,
    Dense,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Masked,
    classifier_free,
    dps,
    edit,
    exact,
    inpaint,
    losses,
    sample,
    samplers,
    save,
)
from anydiff.denoisers import UNet
from anydiff.editing import decode, denoise, encode, ilvr, interpolate
from anydiff.predictions import TARGETS, takes_space, wrapped
from anydiff.training.muon import Muon
from tests.helpers.alone import alone
from tests.helpers.methods import SAMPLERS
from tests.helpers.spaces import MASK, SPACES, draw

TIMES = torch.tensor([0.1, 0.4, 0.6, 0.9])


class MLP(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.first, self.last = nn.Linear(size + 1, 8), nn.Linear(8, size)

    def forward(self, x_t, t):
        h = torch.cat([x_t, t[:, None].to(x_t.dtype)], 1)
        return self.last(torch.tanh(self.first(h)))


def mlp(dtype=torch.float32):
    torch.manual_seed(0)
    return MLP().to(dtype)


def answers(diffusion, dtype=torch.float32):
    """The loss and samples of a diffusion, by numbers that do not depend on it."""
    x0, noise = draw((4, 3)).to(dtype), draw((4, 3), 1).to(dtype)
    return diffusion.loss(x0, TIMES, noise=noise), diffusion.sample((4, 3), steps=3, seed=0)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# pickles and copies --------------------

OBJECTIVES = [
    {"weighting": w}
    for w in (
        losses.MinSNR(), losses.P2(), losses.KarrasWeighting(), losses.Likelihood(),
        losses.Sigmoid(1.0), losses.TruncatedSNR(), losses.Unit("v"), losses.LearnedUncertainty(),
    )
] + [
    {"times": t}
    for t in (
        losses.LogNormal(), losses.LogitNormal(), losses.Power(), losses.UniformLogSNR(),
        losses.LossSecondMoment(),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    "options", [{"prediction": name} for name in TARGETS] + OBJECTIVES, ids=str
)
def test_a_diffusion_and_its_predictor_are_pickled_and_copied(options):
    diffusion = GaussianDiffusion(mlp(), Cosine(), **options)
    for other in (pickle.loads(pickle.dumps(diffusion)), copy.deepcopy(diffusion)):
        assert same(answers(other), answers(diffusion))
    predictor = pickle.loads(pickle.dumps(diffusion.predictor()))
    x = sample(predictor, (4, 3), steps=3, seed=0)
    assert torch.equal(x, answers(diffusion)[1])
    assert predictor.copies(2) is not None


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_samplers_are_pickled(sampler):
    assert str(pickle.loads(pickle.dumps(sampler))) == str(sampler)


# processes --------------------


def train_two(folder):
    mp.start_processes(train, (folder,), nprocs=2, start_method="fork")


def train(rank, folder):
    """One of two processes: the gradient of the loss of its half of a batch."""
    torch.set_num_threads(1)
    file = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", file, rank=rank, world_size=2)
    model = DistributedDataParallel(GaussianDiffusion(mlp(), Cosine()))
    x0, noise = draw((4, 3)).float(), draw((4, 3), 1).float()
    half = slice(2 * rank, 2 * rank + 2)
    model(x0[half], TIMES[half], noise=noise[half]).mean().backward()
    torch.save(model.module.denoiser.last.weight.grad, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_data_parallel_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    alone(train_two, tmp_path)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    diffusion = GaussianDiffusion(mlp(), Cosine())
    noise = draw((4, 3), 1).float()
    diffusion.loss(draw((4, 3)).float(), TIMES, noise=noise).mean().backward()
    assert torch.equal(one, other)
    assert torch.allclose(one, diffusion.denoiser.last.weight.grad, atol=1e-7)


def shard_two(folder):
    mp.start_processes(shard, (folder,), nprocs=2, start_method="fork")


def unet():
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(UNet(1, (8, 16), groups=4), Cosine(), "v")
    for p in diffusion.parameters():
        nn.init.normal_(p, std=0.1)
    return diffusion.to(memory_format=torch.contiguous_format)  # of which shards are made


def shard(rank, folder):
    """One of two processes, each of which has half of each weight."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    file = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", file, rank=rank, world_size=2)
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    whole, diffusion = unet(), unet()
    fully_shard(diffusion.denoiser, mesh=mesh)
    held, all_of_them = (
        sum(size(p) for p in diffusion.parameters())
        for size in (lambda p: p.to_local().numel(), torch.Tensor.numel)
    )
    assert held < 0.6 * all_of_them
    drawn = (of.eval().sample((2, 1, 8, 8), steps=3, seed=0) for of in (diffusion, whole))
    torch.testing.assert_close(*drawn)
    x0, noise = draw((4, 1, 8, 8)).float(), draw((4, 1, 8, 8), 1).float()
    half = slice(2 * rank, 2 * rank + 2)
    diffusion(x0[half], TIMES[half], noise=noise[half]).mean().backward()
    whole(x0, TIMES, noise=noise).mean().backward()
    for part, p in zip(diffusion.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(part.grad.full_tensor(), p.grad, atol=1e-6, rtol=1e-5)
    for of in (diffusion, whole):
        Muon(of.parameters(), smallest=8).step()
    for part, p in zip(diffusion.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(part.full_tensor(), p, atol=1e-5, rtol=1e-4)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_sharded_weights_have_the_gradient_and_the_step_of_the_whole_batch(tmp_path):
    alone(shard_two, tmp_path)


def test_forward_is_the_loss():
    diffusion, x0, noise = GaussianDiffusion(mlp()), draw((4, 3)).float(), draw((4, 3), 1).float()
    loss = diffusion.loss(x0, TIMES, noise=noise)
    weights = dict(diffusion.named_parameters())
    for got in (
        diffusion(x0, TIMES, noise=noise),
        nn.DataParallel(diffusion)(x0, TIMES, noise=noise),
        torch.compile(diffusion, backend="eager")(x0, TIMES, noise=noise),
        torch.func.functional_call(diffusion, weights, (x0, TIMES), {"noise": noise}),
    ):
        assert torch.equal(got, loss)


# wrapped networks --------------------


class Passes(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *args, **kwargs):
        return self.net(*args, **kwargs)


class Calls:
    """Not a module, but it holds one."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x_t, t, **cond):
        return self.net(x_t, t, **cond)


def compiled(net):
    return torch.compile(net, backend="eager")


averaged = torch.optim.swa_utils.AveragedModel
WRAPPERS = {
    "compiled": compiled,
    "averaged": averaged,
    "parallel": nn.DataParallel,
    "nested": lambda net: averaged(nn.DataParallel(compiled(net))),
    "passes": Passes,
    "passes twice": lambda net: Passes(Passes(net)),
    "partial": functools.partial,
    "partial compiled": lambda net: functools.partial(compiled(net)),
    "forward": lambda net: net.forward,
    "call": lambda net: net.__call__,
    "object": Calls,
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())


class Needs(nn.Module):
    """A network that cannot do without the space, not even a dense one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.drop = nn.Dropout(0.5)

    def forward(self, x_t, t, space):
        mean = space.expand(space.sum(x_t) / space.dim(x_t).clamp(min=1) + t, x_t)
        return self.drop(self.weight * (x_t - mean).tanh())


@every_wrapper
@pytest.mark.parametrize("kind", ["dense", "masked", "ragged", "packed"])
def test_a_wrapped_network_answers_as_the_bare_one_in_every_space(wrap, kind):
    space, shape = SPACES[kind]
    net, x0 = Needs(), draw(shape)
    noise = space.project(draw(shape, 1))

    def ask(denoiser):
        diffusion = GaussianDiffusion(denoiser, Cosine(), "v").eval()
        loss = diffusion.loss(x0, TIMES.double(), space=space, noise=noise)
        diffusion.train()  # samples are drawn without dropout all the same
        return loss, diffusion.sample(shape, space=space, sampler=DDPM(), steps=3, seed=0)

    assert same(ask(wrap(net)), ask(net))


@every_wrapper
def test_the_parameters_of_a_wrapped_network_are_the_diffusion_s(wrap):
    net = mlp()
    diffusion = GaussianDiffusion(wrap(net), Cosine(), "v")
    diffusion.loss(draw((4, 3)).float()).mean().backward()
    assert len(list(diffusion.parameters())) == 4
    assert all(p.grad is not None for p in diffusion.parameters())
    assert same(answers(copy.deepcopy(diffusion)), answers(diffusion))


@pytest.mark.parametrize(
    "make", [lambda net: torch.jit.trace(net, (torch.rand(4, 3), TIMES)), torch.jit.script]
)
def test_traced_and_scripted_networks_answer_as_their_source(make):
    net = mlp()
    assert same(answers(GaussianDiffusion(make(net))), answers(GaussianDiffusion(net)))
    with pytest.raises(ValueError, match="does not take its space"):
        GaussianDiffusion(make(net)).predictor(Masked(MASK))


def test_only_pytorch_s_own_wrappers_are_looked_through():
    class Scaled(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.module = net

        def forward(self, x_t, t):
            return 2 * self.module(x_t, t)

    net = mlp()
    assert wrapped(Scaled(net)) is None and wrapped(net) is None
    assert all(wrapped(w(net)) is net for w in (compiled, nn.DataParallel))


def test_a_network_that_is_set_later_is_asked_anew():
    diffusion = GaussianDiffusion(mlp(), Cosine(), "v")
    diffusion.denoiser = Needs()
    assert diffusion.loss(draw((4, 3))).isfinite().all()
    assert takes_space(diffusion.denoiser)(Dense())


# what a network returns, and what it does to its inputs --------------------


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x_t, t, **cond):
        return self.function(x_t, t, **cond)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, t: (x,),
        lambda x, t: [x],
        lambda x, t: {"sample": x},
        lambda x, t: (x, x, x),
        lambda x, t: (x, x[:, :1]),
        lambda x, t: torch.cat([x, x], 1),  # twice as long is not a pair
        lambda x, t: x[:, :1],
        lambda x, t: None,
    ],
)
def test_an_output_of_another_kind_is_refused(function):
    diffusion = GaussianDiffusion(Returns(function))
    for call in (lambda: diffusion.loss(draw((4, 3))), lambda: diffusion.sample((4, 3), steps=2)):
        with pytest.raises(ValueError, match=r"the denoiser gives .*pair.*FromDiffusers"):
            call()


def spoil_t(x_t, t):
    t.mul_(1000)
    return x_t


def spoil_label(x_t, t, label):
    label.clamp_(min=0)
    return x_t


def test_a_network_that_changes_what_is_in_use_is_found_out():
    state = GaussianDiffusion(Returns(lambda x, t: x.mul_(0.5)))
    part = GaussianDiffusion(Returns(lambda x, t: x[:, :1].zero_().expand_as(x)))
    for mode in (torch.no_grad, torch.inference_mode):
        for diffusion in (state, part):
            with mode(), pytest.raises(ValueError, match="changes x_t in place"):
                diffusion.sample((4, 3), steps=2)
    with pytest.raises(ValueError, match="changes x_t in place"):
        state.loss(draw((4, 3)))
    with pytest.raises(ValueError, match="changes t in place"):
        GaussianDiffusion(Returns(spoil_t)).loss(draw((4, 3)), TIMES.double())
    with pytest.raises(ValueError, match="changes label in place"):
        GaussianDiffusion(Returns(spoil_label)).loss(draw((4, 3)), label=torch.tensor([-1] * 4))
    # a copy of the state is the network's own
    assert (
        GaussianDiffusion(Returns(lambda x, t: x.mul_(0.5)), prediction="karras")
        .sample((4, 3), steps=2)
        .isfinite()
        .all()
    )


# dtypes --------------------

dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.half]
)


@dtypes
@pytest.mark.parametrize("own", [torch.float64, torch.float32, torch.bfloat16])
def test_each_tensor_comes_back_in_its_own_dtype(dtype, own):
    diffusion = GaussianDiffusion(mlp(own), Cosine(), "v")
    predictor, x = diffusion.predictor(), draw((4, 3)).to(dtype)
    exact_one = GaussianDiffusion(mlp(torch.float64), Cosine(), "v").predictor()
    assert diffusion.loss(x).isfinite().all()
    for function in (
        lambda p, x: sample(p, x, steps=3),
        lambda p, x: sample(p, x, samplers.AdaptiveSDE(0.5, 0.5), seed=0),
        lambda p, x: edit(p, x, 0.3, steps=3, seed=0),
        lambda p, x: encode(p, x, steps=3, end=0.5),
    ):
        assert function(predictor, x).dtype == dtype
    got, wanted = (p.predict(x, 0.5).x0 for p in (predictor, exact_one))
    rounding = max(torch.finfo(d).eps for d in (dtype, own))
    assert got.dtype == dtype and torch.allclose(got, wanted, atol=16 * rounding, rtol=0)


class Mixed(MLP):
    """The first parameters are of dtypes in which it does not compute."""

    def __init__(self):
        super().__init__()
        first = {
            "steps": nn.Parameter(torch.arange(9), requires_grad=False),
            "waves": nn.Parameter(torch.ones(2, dtype=torch.float64)),
        }
        self._parameters = first


def test_the_first_parameter_does_not_decide():
    assert Mixed().state_dict().keys() >= {"steps", "waves"}
    x = GaussianDiffusion(Mixed()).sample((4, 3), steps=2, seed=0)
    assert x.dtype == torch.float32
    nothing = GaussianDiffusion(Returns(lambda x, t: x), prediction="v")
    assert nothing.sample((4, 3), steps=2).dtype == torch.get_default_dtype()
    assert nothing.loss(draw((4, 3))).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integers_are_labels(dtype):
    from anydiff.denoisers import UNet

    torch.manual_seed(0)
    net = UNet(1, (8,), groups=4, classes=3)
    nn.init.normal_(net.embed_label.weight)
    label, x = torch.tensor([0, 2, 1, 2]), draw((4, 1, 4, 4)).float()
    diffusion = GaussianDiffusion(net, drop=0.5)
    got, wanted = (
        diffusion.loss(x, TIMES, generator=torch.Generator().manual_seed(3), label=given)
        for given in (label.to(dtype), label)
    )
    assert torch.equal(got, wanted)
    c, u = diffusion.predictor(label=label.to(dtype)), diffusion.predictor()
    both = [classifier_free(c, u, 2.0, batched=b).predict(x, 0.5).x0 for b in (True, False)]
    assert torch.allclose(*both, atol=1e-4)


# numbers of NumPy --------------------


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_counts_of_numpy_are_counts(three):
    predictor, x = exact.gaussian(Cosine()).predictor(), draw((4, 3))
    known = torch.ones(4, 3, dtype=torch.bool).triu()
    for function in (
        lambda n: sample(predictor, (4, n), steps=n, seed=0),
        lambda n: sample(predictor, (4, 3), steps=2, seed=n),
        lambda n: sample(predictor, (4, 3), DPMSolver(n), 5, seed=0),
        lambda n: sample(
            predictor, (4, 3), samplers.PredictorCorrector(corrector_steps=n), 2, seed=0
        ),
        lambda n: edit(predictor, x, steps=n, seed=0),
        lambda n: encode(predictor, x, steps=n),
        lambda n: inpaint(predictor, x, known, steps=n, resamples=n, jump=n, seed=0),
        lambda n: interpolate(predictor, x, -x, n, steps=2),
        lambda n: Masked.from_lengths([1, 2], n).mask,
    ):
        assert torch.equal(function(three), function(3))


def test_lists_of_seeds_are_taken_as_arrays_too():
    diffusion = exact.gaussian(Cosine())
    wanted = diffusion.sample((4, 3), steps=2, seed=[5, 6, 7, 8])
    for seeds in (np.arange(5, 9), torch.arange(5, 9), range(5, 9), tuple(range(5, 9))):
        assert torch.equal(diffusion.sample((4, 3), steps=2, seed=seeds), wanted)
    assert diffusion.sample((0, 3), steps=2, seed=[]).shape == (0, 3)


# threads --------------------


def test_threads_that_draw_from_one_model_draw_without_dropout():
    net = nn.Sequential()
    net.forward = None

    class Drops(nn.Dropout):
        def forward(self, x_t, t):
            return super().forward(x_t)

    diffusion = GaussianDiffusion(Drops(0.5), prediction="v").train()
    wanted, found, at_once = diffusion.sample((4, 3), steps=5, seed=0), [], threading.Barrier(4)

    def work(steps):
        for _ in range(steps):
            at_once.wait()
            found.append(diffusion.sample((4, 3), steps=5, seed=0))

    threads = [threading.Thread(target=work, args=(20,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all(torch.equal(x, wanted) for x in found)
    assert diffusion.training and diffusion.denoiser.training


def test_the_last_of_two_runs_restores_the_mode():
    from anydiff.samplers.loop import evaluating

    diffusion = GaussianDiffusion(nn.Identity(), prediction="v").train()
    first, second = evaluating([diffusion]), evaluating([diffusion])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not diffusion.training and not diffusion.denoiser.training
    second.__exit__(None, None, None)
    assert diffusion.training and diffusion.denoiser.training


# gradients through sampling --------------------

STD = 0.5


def every_run():
    """Functions of data and a predictor that draw by steps; each takes `grad`."""
    known = torch.tensor([True, False, False]).expand(4, 3)
    return {
        "sample": lambda p, x, **o: sample(p, x, steps=4, **o),
        "stochastic": lambda p, x, **o: sample(p, x, DDPM(), steps=4, seed=0, **o),
        "adaptive": lambda p, x, **o: sample(p, x, samplers.AdaptiveSDE(0.2), seed=0, **o),
        "edit": lambda p, x, **o: edit(p, x, steps=3, seed=0, **o),
        "denoise": lambda p, x, **o: denoise(p, x, 0.5, steps=3, **o),
        "inpaint": lambda p, x, **o: inpaint(p, x, known, steps=3, resamples=2, seed=0, **o),
        "ilvr": lambda p, x, **o: ilvr(p, x, lambda z: z / 2, steps=3, seed=0, **o),
        "encode": lambda p, x, **o: encode(p, x, steps=3, **o),
        "decode": lambda p, x, **o: decode(p, x, steps=3, **o),
        "interpolate": lambda p, x, **o: interpolate(p, x, -x, 3, steps=3, **o),
    }


@pytest.mark.parametrize("name", every_run())
def test_gradients_go_through_a_run_on_request_only(name):
    run, x = every_run()[name], draw((4, 3)).requires_grad_()
    diffusion = GaussianDiffusion(mlp(torch.float64), Cosine(), "v")
    predictor = diffusion.predictor()
    with torch.no_grad():
        assert not run(predictor, x).requires_grad
    y = run(predictor, x, grad=True)
    assert torch.equal(y, run(predictor, x))
    y.square().sum().backward()
    assert x.grad.isfinite().all() and diffusion.denoiser.first.weight.grad.abs().sum() > 0

    if name == "adaptive":  # whose steps, constants to the derivative, change with x
        return
    step = 1e-5 * draw((4, 3), 7)  # finite differences, of second order
    with torch.no_grad():
        ahead, behind = (run(predictor, x + s).square().sum() for s in (step, -step))
    assert (x.grad * step).sum().item() == pytest.approx((ahead - behind).item() / 2, rel=1e-5)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if "Adaptive" not in str(s)], ids=str)
def test_the_gradient_is_that_of_a_loop_by_hand(sampler):
    diffusion, x = GaussianDiffusion(mlp(torch.float64), Cosine(), "v"), draw((4, 3))
    grads = []
    for by_hand in (True, False):
        z, diffusion.denoiser.zero = x.clone().requires_grad_(), None
        diffusion.zero_grad()
        predictor, generator = diffusion.predictor(), torch.Generator().manual_seed(0)
        if by_hand:
            y, past = z, ()
            levels = samplers.plan(Cosine(), 5, sampler)
            for t, s in itertools.pairwise(levels):
                y, p = sampler.step(predictor, y, t, s, past, generator)
                past = (*past, p)[-sampler.past :] if sampler.past else ()
        else:
            y = sample(predictor, z, sampler, 5, seed=generator, grad=True)
        y.sum().backward()
        grads.append([z.grad, *(p.grad.clone() for p in diffusion.denoiser.parameters())])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads, strict=True))


def test_gradients_through_an_exact_flow():
    """The flow of normal data is linear: x_0 = std / sqrt(alpha² std² + sigma²) x_1."""
    model, z = exact.gaussian(Flow(), "v", std=STD), draw((4, 3)).requires_grad_()
    x = model.sample(z, sampler=DDIM(), steps=200, grad=True)
    x.sum().backward()
    slope = model.denoiser.flow(torch.ones(1, 1, dtype=torch.float64), 1.0, 0.0).item()
    assert torch.allclose(z.grad, torch.full_like(z, slope), rtol=0.01)


def test_gradients_go_through_guidance_to_the_weights():
    diffusion = GaussianDiffusion(mlp(torch.float64), Cosine(), "v")
    y = torch.full((4, 1), 0.5, dtype=torch.float64)
    guided = dps(diffusion.predictor(), lambda x: x[:, :1], y, noise=0.3)
    weight = diffusion.denoiser.last.bias
    sample(guided, (4, 3), steps=3, seed=0, grad=True).sum().backward()
    ends = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            weight[0] += h
            ends.append(sample(guided, (4, 3), steps=3, seed=0).sum().item())
            weight[0] -= h
    assert weight.grad[0].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("wrap", ["a decorated method", "an object"])
def test_the_weights_of_a_network_within_a_function_are_found(wrap):
    network = nn.Linear(2, 2)
    holder = Calls(network)
    holder.__dict__.update({k: functools.partial(v) for k, v in vars(holder).items()})
    denoiser = {
        "a decorated method": lambda: functools.wraps(network.forward)(lambda x, t: network(x)),
        "an object": lambda: holder,
    }[wrap]()
    found = GaussianDiffusion(denoiser, Cosine(), "v").parameters()
    assert {id(p) for p in found} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, functools.partial(torch.compile, backend="eager")]
)
def test_a_wrapped_diffusion_is_saved_as_the_bare_one(wrap, tmp_path):
    diffusion = GaussianDiffusion(UNet(1, widths=(8,)), Cosine(), "v")
    for name, model in {"bare": diffusion, "wrapped": wrap(diffusion)}.items():
        save(tmp_path / name, model)
    assert (tmp_path / "bare").read_bytes() == (tmp_path / "wrapped").read_bytes()

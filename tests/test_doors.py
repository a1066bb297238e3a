"""Every public function and class of the core refuses nonsense by the name of the argument.

A door is a call with arguments that fit; each of its arguments is then given what does not: another kind,
another shape or dtype, a number outside its range. Nothing may broadcast, wrap around or be cut.
"""

import math
import re

import pytest
import torch

from anydiff import (
    DDIM,
    DDPM,
    Cosine,
    Dense,
    DPMSolver,
    GaussianDiffusion,
    Heun,
    Renoise,
    Tabulated,
    UniPC,
    editing,
    exact,
    guidance,
    likelihood,
    losses,
    sample,
    samplers,
    save,
    schedules,
)
from anydiff.denoisers import BiRNN, Completing, UNet
from anydiff.distillation import Closer, Distillation, consistent, known, merged, student
from anydiff.editing import Stage
from anydiff.likelihood import score_matching
from anydiff.metrics import distances
from anydiff.samplers import OptimalVariance, plan
from anydiff.series import forecast
from anydiff.spaces import Masked, Packed, Ragged, Rest, child
from tests.helpers.spaces import draw

B, D = 4, 3
MODEL = exact.gaussian(Cosine(), "v", mean=0.2, std=0.5)
MIXTURE = exact.mixture(Cosine(), "v", means=draw((2, D)), stds=0.5)
P = MODEL.predictor()
X, Y, NOISE = draw((B, D)), draw((B, 1), 3), draw((B, D), 5)
T = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
KNOWN = torch.tensor([True, False, True]).expand(B, D)
COMPLETING = GaussianDiffusion(Completing(BiRNN(2 * D, 8, 1).double()), prediction="v")
NAN = X.masked_fill(~KNOWN, torch.nan)
nan, inf = math.nan, math.inf

# what is no count, no number, no object and so on
COUNT = [0, -1, 2.5, True, "3", nan, [3], torch.tensor(2.0), torch.tensor([2, 3])]
NUMBER = ["0.5", True, nan, [0.5], torch.rand(2), None]
FLOATS = ["x", [1.0], X.int(), X > 0, X.numpy()]
FINITE = [*FLOATS, NAN, X * inf]
SEED = [
    "123",
    1.5,
    [1.5] * B,
    {1, 2, 3, 4},
    -1,
    2**64,
    True,
    [],
    [1, 2],
    ["a"] * B,
    nan,
    [None] * B,
]
SAMPLER = [DDIM, "ddim", Cosine(), lambda: None]
GRID = [samplers.Uniform, "uniform", 5, lambda schedule, steps, start: steps]
PREDICTOR = [MODEL, MODEL.denoiser, None, "model", GaussianDiffusion]
SPACE = [Dense, "dense", None, (B, D)]
SCHEDULE = [Cosine, "cosine", None, lambda t: t]
FUNCTION = [None, "f", 3.0, X, torch.nn.Identity]
SCALE = ["2", True, nan, inf, None, [1.0], torch.nn.Identity]
BY_ITEM = [torch.rand(B - 1), torch.rand(B, 1), torch.rand(1), torch.rand(D)]
STEPS = [*COUNT, [], [0.5], [0.2, 0.5, 0.0], [1.0, -0.5], {0.5, 0.1}]
TIMES = [
    -0.1, 1.5, nan, 500, "0.5", True, [0.5] * B, T.long(), T + 0.2, T - 0.2, T * nan, T[:3], T[:1],
    T[:, None], T.tolist(), T.numpy(), torch.tensor(7),
]  # fmt: skip
LIKE_X = [X[:, :1], X[:1], X[0], X.float(), X.int(), X[..., None], 0.0, X.numpy()]
FRACTION = ["0.1", True, -0.1, 1.1, nan, [0.1]]
MOMENTS = [
    0.5,
    1,
    "0.5",
    None,
    [0.5],
    T.long(),
    T > 0.5,
    T + 0j,
    T + 0.2,
    T - 0.2,
    T * nan,
    T.numpy(),
]
SAMPLES = ["ab", None, 1.0, X[0], X[:1], X[:, :2], X + 0j, X > 0, X * nan, [[1, 2], [3]]]


def first(x):
    return x[:, :1]


def log_normal(x, t=None):
    return -x.square().sum(1)


def door(function, wrong, **fitting):
    return function, fitting, wrong


OPTIONS = {"sampler": SAMPLER, "seed": SEED, "steps": STEPS}
RUN = {"sampler": SAMPLER, "grid": GRID}
DOORS = {
    "GaussianDiffusion": door(
        GaussianDiffusion,
        {
            "denoiser": [UNet, "unet", None, 3],
            "schedule": SCHEDULE,
            "prediction": ["epsilon", None, 3, Cosine, lambda at: (0, 1)],
            "weighting": [losses.MinSNR, "min-snr", 5.0],
            "times": [losses.LogNormal, "lognormal", 0.5],
            "error": [losses.Hybrid, "hybrid", None],
            "drop": [*FRACTION, {"label": 2.0}],
            "augment": [0.5, "label", {"label": 2.0}, {"label": "1"}],
        },
        denoiser=MODEL.denoiser, schedule=Cosine(), prediction="v",
    ),
    "loss": door(
        MODEL.loss,
        {"x0": FLOATS, "t": TIMES, "noise": LIKE_X, "space": SPACE,
         "generator": [0, "x", torch.Generator, {1}]},
        x0=X, t=T, noise=NOISE,
    ),
    "forward": door(MODEL, {"x0": FLOATS, "t": TIMES}, x0=X, t=T),
    "predictor": door(MODEL.predictor, {"space": SPACE}),
    "predict": door(P.predict, {"x_t": FLOATS, "t": TIMES}, x_t=X, t=0.5),
    "diffusion.sample": door(
        MODEL.sample,
        OPTIONS | {"shape": [8, "ab", (2.5, 3), (-1, 3), (), None, X.int()], "space": SPACE,
                   "grid": GRID, "cond": [X, "label", 3], "callback": [3, "x", list],
                   "start": [*NUMBER, 0, 1.5]},
        shape=(B, D), steps=2,
    ),
    "sample": door(
        sample,
        OPTIONS | {"predictor": PREDICTOR, "x_T": [8, "ab", (2.5, 3), (True, 3), None, X.int()],
                   "grid": GRID, "start": [*NUMBER, 0, 1.5]},
        predictor=P, x_T=(B, D), steps=2,
    ),
    "plan": door(
        plan, RUN | {"schedule": SCHEDULE, "steps": STEPS, "sampler": [*SAMPLER, None]},
        schedule=Cosine(), steps=3, sampler=DDIM(),
    ),
    "DDIM": door(DDIM, {"eta": FRACTION, "variance": ["small", OptimalVariance]}),
    "Renoise": door(Renoise, {"tau": FRACTION}),
    "Renoise.annealed": door(
        Renoise.annealed, {"eta": [0.2, 1.2, *NUMBER], "ratio": [0, 1, *NUMBER]}, eta=0.3, ratio=0.7
    ),
    "DDPM": door(DDPM, {"variance": ["medium", None, OptimalVariance, 1.0]}),
    "DPMSolver": door(DPMSolver, {"order": [*COUNT, 4], "eta": [*NUMBER, -1.0]}),
    "UniPC": door(UniPC, {"order": [*COUNT, 1], "variant": ["bh3", None, 1]}),
    "AdamsBashforth": door(samplers.AdamsBashforth, {"order": [*COUNT, 5]}),
    "Heun": door(Heun, {"churn": [*NUMBER, -1.0], "s_noise": [*NUMBER, 0.0], "s_min": NUMBER}),
    "PredictorCorrector": door(
        samplers.PredictorCorrector,
        {"predictor": [DDIM, "ddim", None], "corrector_steps": [-1, *COUNT[1:]], "snr": [0, *NUMBER]},
    ),
    "AnnealedLangevin": door(
        samplers.AnnealedLangevin, {"steps_per_level": COUNT, "step_size": [0, *NUMBER]}
    ),
    "AdaptiveSDE": door(samplers.AdaptiveSDE, {"rtol": [0, *NUMBER], "first": [0, *NUMBER]}),
    "AdaptiveODE": door(samplers.AdaptiveODE, {"atol": [0, *NUMBER], "method": ["rk", None, 1]}),
    "LogSNR": door(samplers.LogSNR, {"power": [0, *NUMBER], "logsnr_max": [-20, *NUMBER]}),
    "KarrasGrid": door(samplers.KarrasGrid, {"rho": [0, *NUMBER], "sigma_min": [0, *NUMBER]}),
    "Variances": door(
        samplers.Variances, {"kind": ["cubic", None, 1], "first": [0, 1, *NUMBER]}
    ),
    "OptimalVariance.estimate": door(
        OptimalVariance.estimate,
        {"points": [1, *COUNT], "batches": [[(MODEL, X)], None, 3, [P], [(P,)]]},
        batches=[(P, X)], points=3,
    ),
    "towards": door(
        guidance.towards,
        {"predictor": PREDICTOR, "term": FUNCTION, "scale": SCALE},
        predictor=P, term=lambda x, at: (None, x.sum(1)), scale=1.0,
    ),
    "classifier_free": door(
        guidance.classifier_free,
        {"conditional": PREDICTOR, "unconditional": PREDICTOR, "scale": SCALE, "rescale": FRACTION,
         "interval": [0.5, "ab", (0.5,), (0.1, 0.5, 0.9)]},
        conditional=P, unconditional=P, scale=1.5,
    ),
    "autoguidance": door(
        guidance.autoguidance, {"strong": PREDICTOR, "weak": PREDICTOR, "scale": SCALE}, strong=P, weak=P
    ),
    "classifier": door(
        guidance.classifier,
        {"predictor": PREDICTOR, "log_prob": FUNCTION, "scale": SCALE},
        predictor=P, log_prob=log_normal,
    ),
    "clip_guidance": door(
        guidance.clip_guidance,
        {"predictor": PREDICTOR, "encoders": [torch.sin, (1, 2), (torch.sin, None)], "scale": SCALE},
        predictor=P, encoders=(torch.sin, torch.sin), prompt=X[0],
    ),
    "dps": door(
        guidance.dps,
        {"predictor": PREDICTOR, "operator": FUNCTION, "y": [*FINITE, Y.int(), Y * nan],
         "noise": [0, -1, inf, *NUMBER[:-1]], "scale": SCALE, "chain": COUNT, "measured": SPACE},
        predictor=P, operator=first, y=Y, noise=0.1,
    ),
    "pigdm": door(
        guidance.pigdm,
        {"predictor": PREDICTOR, "operator": FUNCTION, "y": [*FINITE, Y.int(), Y * nan],
         "noise": [-1, *NUMBER], "std": [0, *NUMBER], "scale": SCALE, "iterations": COUNT,
         "covariance": ["diagonal", None], "measured": SPACE},
        predictor=P, operator=first, y=Y, noise=0.1,
    ),
    "inpaint": door(
        editing.inpaint,
        OPTIONS | {"predictor": PREDICTOR, "x": [*FLOATS, X * nan, X.masked_fill(KNOWN, inf)],
                   "known": [KNOWN.int(), KNOWN[:, :2], KNOWN[:3], KNOWN.numpy(), None, "left"],
                   "resamples": COUNT, "jump": COUNT},
        predictor=P, x=X, known=KNOWN, steps=2, resamples=1,
    ),
    "impute": door(
        editing.impute,
        OPTIONS | {"predictor": PREDICTOR, "x": [*FLOATS, X * inf], "n": COUNT},
        predictor=P, x=NAN, steps=2, resamples=1,
    ),
    "complete": door(
        editing.complete,
        OPTIONS | {"model": [P, None, "model", GaussianDiffusion], "n": COUNT,
                   "x": [*FLOATS, X[:, None] * inf],
                   "known": [KNOWN.int(), KNOWN[:, :2], KNOWN[:3], KNOWN.numpy(), "left"],
                   "space": SPACE, "callback": [3, "x", list], "grid": GRID},
        model=COMPLETING, x=NAN[:, None], known=KNOWN[:, None], steps=2,
    ),
    "Completing": door(
        Completing, {"net": [None, UNet, "unet", torch.relu], "axis": [-2, 1.5, "1", True]},
        net=BiRNN(6, 8, 1), axis=2,
    ),
    "ilvr": door(
        editing.ilvr,
        OPTIONS | {"predictor": PREDICTOR, "reference": FINITE, "low_pass": FUNCTION,
                   "until": FRACTION},
        predictor=P, reference=X, low_pass=lambda x: x / 2, steps=2,
    ),
    "edit": door(
        editing.edit,
        OPTIONS | {"predictor": PREDICTOR, "x": FINITE, "strength": [0, 1.5, *NUMBER], "grid": GRID},
        predictor=P, x=X, steps=2,
    ),
    "variations": door(
        editing.variations,
        OPTIONS | {"predictor": PREDICTOR, "x": FINITE, "strength": [0, 1.5, *NUMBER], "n": COUNT},
        predictor=P, x=X, steps=2,
    ),
    "denoise": door(
        editing.denoise,
        OPTIONS | {"predictor": PREDICTOR, "x": FINITE, "std": [0, *NUMBER]},
        predictor=P, x=X, std=0.5, steps=2,
    ),
    "encode": door(
        editing.encode,
        RUN | {"predictor": PREDICTOR, "x": FINITE, "steps": STEPS, "end": [0, 1.5, *NUMBER]},
        predictor=P, x=X, steps=2,
    ),
    "decode": door(
        editing.decode,
        RUN | {"predictor": PREDICTOR, "z": FINITE, "steps": STEPS, "start": [0, 1.5, *NUMBER]},
        predictor=P, z=X, steps=2,
    ),
    "interpolate": door(
        editing.interpolate,
        RUN | {"predictor": PREDICTOR, "a": FINITE, "b": [*LIKE_X, NAN], "steps": STEPS,
               "weights": [1, 2.5, True, "3", [], [nan], {0.5}]},
        predictor=P, a=X, b=NOISE, weights=3, steps=2,
    ),
    "Stage": door(
        Stage,
        {"predictor": [None, "model", P], "noise": FRACTION, "options": [None, 3]},
        predictor=MODEL.predictor, shape=(B, D),
    ),
    "cascade": door(
        editing.cascade,
        {"stages": [None, Stage(MODEL.predictor, (B, D)), [MODEL]], "seed": SEED, "x": FLOATS},
        stages=[Stage(MODEL.predictor, (B, D), options={"steps": 2})],
    ),
    "variational_bound": door(
        likelihood.variational_bound,
        {"predictor": PREDICTOR, "x0": FLOATS, "steps": STEPS, "draws": COUNT,
         "variance": ["medium", None], "decoder": [likelihood.DiscretizedGaussian, None]},
        predictor=P, x0=X, steps=3,
    ),
    "continuous_bound": door(
        likelihood.continuous_bound,
        {"predictor": PREDICTOR, "x0": FLOATS, "draws": COUNT, "uniform": ["space", None],
         "u": [T.long(), T + 0.5, T[:3], T[:, None, None], 0.5], "logsnr_max": [-30, *NUMBER],
         "decoder": [likelihood.DiscretizedGaussian, None]},
        predictor=P, x0=X,
    ),
    "log_prob": door(
        likelihood.log_prob,
        {"predictor": PREDICTOR, "x0": FLOATS, "probes": COUNT, "steps": COUNT, "trace": ["all", None],
         "rtol": [0, *NUMBER], "method": ["rk", 3]},
        predictor=P, x0=X, trace="hutchinson", steps=2, method="euler",
    ),
    "DiscretizedGaussian": door(
        likelihood.DiscretizedGaussian, {"bits": [17, *COUNT], "levels": ["ab", [1.0], [1, 1], 3]}
    ),
    "Dequantize": door(likelihood.Dequantize, {"bits": COUNT, "high": [-2, *NUMBER]}),
    "Dequantize()": door(likelihood.Dequantize(), {"x0": FLOATS}, x0=X),
    "bits_per_dim": door(
        likelihood.bits_per_dim,
        {"width": [0, *NUMBER], "log_prob": ["a", 1.0, None], "dim": ["a", 3, T[:2]]},
        log_prob=T, dim=torch.full((B,), 3)
    ),
    "score_matching.denoising": door(
        score_matching.denoising,
        {"score": FUNCTION, "x": FLOATS, "sigma": [0, *NUMBER, *BY_ITEM[:2]], "noise": LIKE_X,
         "space": SPACE, "t": [0.5, T[:, None]]},
        score=log_normal and (lambda x, t=None: -x), x=X, sigma=0.5,
    ),
    "score_matching.sliced": door(
        score_matching.sliced,
        {"score": FUNCTION, "x": FLOATS, "projections": COUNT, "space": SPACE},
        score=lambda x: -x, x=X,
    ),
    "score_matching.exact": door(
        score_matching.exact,
        {"score": FUNCTION, "x": FLOATS, "chunk_size": COUNT, "space": SPACE},
        score=lambda x: -x, x=X,
    ),
    "exact.gaussian": door(
        exact.gaussian, {"schedule": SCHEDULE, "std": [-1.0, nan, "a", True],
                         "mean": [nan, inf, "a", None, X + 0j]},
        schedule=Cosine(),
    ),
    "exact.consistency": door(
        exact.consistency, {"schedule": SCHEDULE, "std": [-1.0, nan, "a", True]}, schedule=Cosine()
    ),
    "exact.mixture": door(
        exact.mixture,
        {"schedule": SCHEDULE, "stds": [-1.0, nan, torch.ones(3)], "means": [X * nan, 0.5],
         "weights": [torch.zeros(2), torch.ones(3)]},
        schedule=Cosine(), means=draw((2, D)),
    ),
    "exact log_prob": door(MODEL.denoiser.log_prob, {"t": TIMES}, x=X, t=T),
    "exact flow": door(MODEL.denoiser.flow, {"t": [-0.1, 1.5, *NUMBER]}, x=X, t=0.5, s=0.1),
    "exact label": door(
        MIXTURE.denoiser,
        {"t": [0.5, T[:3], T + 0.2, T.long()],
         "label": [torch.full((B,), 2), torch.zeros(B),
                   torch.zeros(B, dtype=torch.bool), torch.zeros(B, 1).long()]},
        x_t=X, t=T, label=torch.zeros(B).long(),
    ),
    "Hybrid": door(losses.Hybrid, {"steps": COUNT, "weight": [0, *NUMBER], "decoder": [None, "x"]}),
    "LogNormal": door(losses.LogNormal, {"std": [0, *NUMBER], "mean": NUMBER}),
    "LossSecondMoment": door(
        losses.LossSecondMoment, {"bins": COUNT, "history": COUNT, "mixing": [0, *FRACTION]}
    ),
    "SoftTruncation": door(
        losses.SoftTruncation,
        {"power": [-1, *NUMBER], "smallest": [0, 1, *NUMBER],
         "times": [losses.LogNormal, "lognormal", 0.5, losses.LossSecondMoment(),
                   losses.Rows((1.0, 0.0))]},
    ),
    "PseudoHuber": door(
        losses.PseudoHuber,
        {"width": [0, -1, *NUMBER], "weighting": [losses.MinSNR, "min-snr", 1.0, losses.Plain(),
                                                  losses.PseudoHuber(), torch.sigmoid]},
    ),
    "MinSNR": door(losses.MinSNR, {"gamma": [0, *NUMBER]}),
    "Sigmoid": door(losses.Sigmoid, {"bias": NUMBER}, bias=1.0),
    "LearnedUncertainty": door(losses.LearnedUncertainty, {"features": [3, *COUNT]}),
    "Rest": door(
        Rest,
        {"space": SPACE, "known": ["left", [True], X, X.int(), KNOWN.numpy(), None]},
        space=Dense(), known=KNOWN,
    ),
    "Masked.from_lengths": door(
        Masked.from_lengths,
        {"lengths": ["12", None, {1, 2}, [0, 2], [1.5, 2.0], [True, True], [[1]], []],
         "size": [2, *COUNT]},
        lengths=[2, 3],
    ),
    "Ragged.from_sizes": door(
        Ragged.from_sizes, {"sizes": ["12", None, {1, 2}, [0, 2], [1.5, 2.0], [True, True], [[1]]]},
        sizes=[2, 3]
    ),
    "Ragged": door(
        Ragged,
        {"index": [[0, 0, 1], torch.tensor([0.0, 0.0, 1.0]), torch.tensor([[0, 0, 1]]),
                   torch.tensor([0, 1, 0]), torch.tensor([0, 0, 2]), torch.tensor([-1, 0, 1]),
                   torch.tensor([False, True])],
         "num_items": COUNT[1:], "centered": COUNT[1:]},
        index=torch.tensor([0, 0, 1]), num_items=2,
    ),
    "Packed": door(
        Packed,
        {"fields": [None, {}, [1], {"a": 3}, {"a": Dense()}, {"a": (Dense, (2, 1))}, {"a": (3, (2, 1))},
                    {"a": (Dense(), "ab")}, {"a": (Dense(), (2.0, 1))}, {"a": (Dense(), (-1, 2))},
                    {"a": (Dense(), ())}],
         "weights": [3, "left", [0.3], {"b": 1}, {"a": 0}, {"a": -1}, {"a": "1"}, {"a": None}]},
        fields={"a": (Dense(), (2, 1))},
    ),
    "pack": door(
        Packed({"a": (Dense(), (2, 1))}).pack,
        {"fields": [None, [X], {"b": X}]},
        fields={"a": X[:2, :1]},
    ),
    "copies": door(Ragged.from_sizes([2, 1]).copies, {"n": [0, -1, 2.5, True, "3", nan]}, n=2),
    "child": door(child, {"seed": ["1", 1.5, nan, True, None, [1], torch.ones(2).long()]}, seed=1),
    "noise": door(
        Dense().noise, {"generator": [3, "3", [1] * B, torch.Generator]}, x=X, generator=None
    ),
    "schedule": door(Cosine(), {"t": MOMENTS}, t=T),
    "schedule.at": door(Cosine().at, {"t": MOMENTS}, t=T),
    "schedule.logsnr": door(Cosine().logsnr, {"t": MOMENTS}, t=T),
    "schedule.rates": door(Cosine().rates, {"t": [0.5, None, [0.5], T.long(), T > 0]}, t=T),
    "schedule.time": door(Cosine().time, {"logsnr": [3, None, [0.5], T.long(), T > 0]}, logsnr=T),
    "schedule.levels": door(
        Cosine().levels, {"times": [0.5, "ab", None, T + 0.2, T > 0, T[:, None]]}, times=T
    ),
    "schedule.at_logsnr": door(Cosine().at_logsnr, {"logsnr": NUMBER}, logsnr=1.0),
    "schedule.clip": door(
        Cosine().clip, {"logsnr_min": NUMBER, "logsnr_max": NUMBER}, logsnr_min=-5.0, logsnr_max=5.0
    ),
    "Tabulated": door(
        Tabulated,
        {"alpha_bar": ["ab", None, [], [0.9, nan], [[0.9, 0.5]], {0.9, 0.5}, [0.5, 0.9], [1, 0],
                       [0.9 + 0j], torch.tensor([True]), torch.linspace(2, 0.1, 1000)]},
        alpha_bar=[0.9, 0.5],
    ),
    "from_betas": door(
        Tabulated.from_betas,
        {"betas": ["ab", None, [], [0.1, nan], [[0.1, 0.2]], [0.1, 1.0], [0.0], 0.1]}, betas=[0.1, 0.2],
    ),
    "Tabulated.linear": door(Tabulated.linear, {"steps": COUNT, "beta_min": [0, *NUMBER]}),
    "Tabulated.sigmoid": door(Tabulated.sigmoid, {"steps": COUNT, "limit": [0, *NUMBER]}),
    "Tabulated.cosine": door(
        Tabulated.cosine, {"steps": COUNT, "offset": NUMBER, "beta_limit": [0, 1, *NUMBER]}
    ),
    "Learned": door(
        schedules.Learned,
        {"width": COUNT, "logsnr_min": [-inf, *NUMBER], "logsnr_max": [-6, *NUMBER]}, width=8,
    ),
    "Shifted": door(
        schedules.Shifted, {"schedule": SCHEDULE, "factor": [0, *NUMBER]}, schedule=Cosine(), factor=0.5
    ),
    "ZeroTerminalSNR": door(
        schedules.ZeroTerminalSNR, {"schedule": SCHEDULE}, schedule=schedules.Linear()
    ),
    "frechet": door(
        lambda features: distances.frechet(features, X), {"features": SAMPLES}, features=NOISE
    ),
    "mmd": door(lambda features: distances.mmd(X, features), {"features": SAMPLES}, features=NOISE),
    "precision_recall": door(distances.precision_recall, {"k": COUNT}, fake=X, real=NOISE, k=2),
    "jensen_shannon": door(
        distances.jensen_shannon,
        {"p": ["ab", None, 1.0, [[1, 2]], [1 + 0j, 2], torch.tensor([True, False])]},
        p=[1, 2], q=[2, 1],
    ),
    "grid": door(
        samplers.LogSNR(),
        {"schedule": SCHEDULE, "steps": COUNT, "start": [0, 1.5, *NUMBER]}, schedule=Cosine(), steps=3,
    ),
    "even grid": door(
        samplers.Uniform(),
        {"schedule": SCHEDULE, "steps": COUNT, "start": [0, 1.5, *NUMBER]}, schedule=Cosine(), steps=3,
    ),
    "a grid of one's own": door(
        lambda grid: sample(P, (2, D), steps=2, grid=lambda schedule, steps, start: grid),
        {"grid": [None, "ab", T[:0], T, T.flip(0) * nan, T.flip(0) + 1, torch.zeros(2), T[:, None]]},
        grid=[1.0, 0.5, 0.0],
    ),
    "known": door(
        known, {"x0": FLOATS, "schedule": SCHEDULE, "space": SPACE}, x0=X, schedule=Cosine()
    ),
    "merged": door(
        merged,
        {"predictor": PREDICTOR, "times": [*STEPS, 3, [0.0, 0.5, 1.0]], "n": [3, *COUNT],
         "sampler": [*SAMPLER, None, DDPM(), DDIM(1.0), samplers.AdaptiveODE()]},
        predictor=P, times=4,
    ),
    "consistent": door(
        consistent, {"guide": PREDICTOR, "student": PREDICTOR, "nearer": FUNCTION},
        guide=P, student=P, nearer=Closer(),
    ),
    "Closer": door(
        Closer, {"ratio": [0, 1.1, *NUMBER[1:]], "k": [-1, *NUMBER], "b": [-1, *NUMBER]}
    ),
    "Rows": door(
        losses.Rows,
        {"times": [[], [0.5], 4, "ab", None, [0.0, 1.0], [1.0, nan], [1.5, 0.5], [[1.0, 0.0]], T],
         "sampler": [*SAMPLER, None]},
        times=[1.0, 0.5, 0.0],
    ),
    "student": door(
        student,
        {"teacher": [P, MODEL.denoiser, None, "model", GaussianDiffusion],
         "times": ["rows", 0.5, [1.0, 0.5], losses.LogNormal]},
        teacher=MODEL,
    ),
    "Distillation": door(
        Distillation,
        {"student": [P, MODEL.denoiser, None, "model", GaussianDiffusion], "target": [P, *FUNCTION]},
        student=MODEL, target=lambda x0, space: P,
    ),
    "Distillation.loss": door(
        Distillation(MODEL, lambda x0, space: known(x0, Cosine(), space)).loss,
        {"x0": FLOATS, "t": TIMES, "noise": LIKE_X, "space": SPACE,
         "generator": [0, "x", torch.Generator, {1}]},
        x0=X, t=T, noise=NOISE,
    ),
    "save": door(
        lambda diffusion: diffusion is MODEL or save("/nonexistent/model", diffusion),
        {"diffusion": ["model.safetensors", None, MODEL.denoiser, GaussianDiffusion]}, diffusion=MODEL,
    ),
    "forecast": door(
        forecast, {"horizon": COUNT, "n": COUNT},
        predict=MODEL.predictor, history=draw((B, 3, 2)), horizon=2, steps=2, resamples=1,
    ),
}  # fmt: skip


def named(name, message):
    """Whether a message names an argument, in the plural too, or what it is called in prose."""
    prose = {"steps": "times|start", "seed": "generators", "batches": "predictor"}
    prose |= {"shape": "x_T", "lengths": "items", "times": "steps"}
    other = prose.get(name, name)
    return re.search(rf"\b({name}|{name.rstrip('s')}|{other})s?\b", message) is not None


CASES = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{k}")
    for name, (_, _, wrong) in DOORS.items()
    for argument, values in wrong.items()
    for k, value in enumerate(values)
]


@pytest.mark.parametrize("name", DOORS)
def test_what_fits_passes(name):
    function, fitting, _ = DOORS[name]
    function(**fitting)


@pytest.mark.parametrize("name, argument, value", CASES)
def test_nonsense_is_refused_by_the_name_of_the_argument(name, argument, value):
    function, fitting, _ = DOORS[name]
    with pytest.raises((ValueError, TypeError)) as raised:
        function(**fitting | {argument: value})
    assert named(argument, str(raised.value)), raised.value
    assert len(str(raised.value)) < 400

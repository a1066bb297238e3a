"""Pipelines of diffusers: the chain of a scheduler is read whole, or refused by name."""

import json

import pytest
import torch

from anydiff import DDIM, Flow, GaussianDiffusion, Tabulated, sample
from anydiff.denoisers import UNet
from anydiff.denoisers.unet.foreign import FromDiffusers
from anydiff.guidance import classifier_free
from anydiff.images.pipelines import load_pipeline, read_chain
from anydiff.latent import Latent
from anydiff.schedules import ZeroTerminalSNR

LINEAR = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}


def test_the_chain_of_ho_et_al():
    chain = read_chain(LINEAR)
    assert torch.allclose(chain.schedule.alpha_bar, Tabulated.linear().alpha_bar, rtol=1e-12)
    assert chain.prediction == "eps" and chain.steps == 1000


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_train_timesteps": 50},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"trained_betas": [0.01, 0.05, 0.2], "num_train_timesteps": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_rates_are_those_of_diffusers(change, scheduler):
    diffusers = pytest.importorskip("diffusers")
    if scheduler.startswith("DPM") and change.get("beta_schedule") == "sigmoid":
        pytest.skip("diffusers has it in one of the two")
    config = {k: v for k, v in (LINEAR | change).items() if k != "_class_name"}
    theirs = getattr(diffusers, scheduler)(**config)
    chain = read_chain(theirs.config)
    # their tables are float32
    assert torch.allclose(
        chain.schedule.alpha_bar.float(), theirs.alphas_cumprod, rtol=2e-3, atol=1e-6
    )
    assert chain.steps == len(theirs.alphas_cumprod) == config["num_train_timesteps"]


@pytest.mark.parametrize("steps", [2, 4, 50, 1000])
def test_chains_that_end_in_pure_noise(steps):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        steps, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    chain = read_chain(theirs.config)
    assert isinstance(chain.schedule, ZeroTerminalSNR) and chain.prediction == "v"
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    alpha, _ = chain.schedule(t)
    assert torch.allclose(alpha**2, theirs.alphas_cumprod.double(), atol=2e-6)
    assert alpha[-1] == 0


@pytest.mark.parametrize(
    "theirs, ours", [("epsilon", "eps"), ("sample", "x0"), ("v_prediction", "v")]
)
def test_what_is_predicted_comes_along(theirs, ours):
    assert read_chain(LINEAR | {"prediction_type": theirs}).prediction == ours
    assert (
        read_chain({k: v for k, v in LINEAR.items() if k != "prediction_type"}).prediction == "eps"
    )


@pytest.mark.parametrize(
    "config",
    [
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 3.0,
        },
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
        LINEAR | {"prediction_type": "flow_prediction"},
    ],
    ids=lambda c: c["_class_name"],
)
def test_flow_matching_is_given_its_time(config):
    chain = read_chain(config)
    assert chain.schedule == Flow() and chain.prediction == "velocity"
    assert chain.steps(torch.tensor([0.25])).tolist() == [250]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prediction_type": "mean"}, "DDPMScheduler has prediction_type 'mean'"),
        ({"prediction_type": ["epsilon"]}, "prediction_type"),
        ({"beta_schedule": "laplace"}, "beta_schedule is 'laplace'"),
        ({"beta_schedule": None}, "beta_schedule is None"),
        ({"beta_start": None}, "beta_start"),
        ({"beta_end": 2.0}, "no table"),
        ({"beta_end": "x"}, "no table"),
        ({"num_train_timesteps": 1.5}, "num_train_timesteps 1.5"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps 1000000000000"),
        ({"trained_betas": [0.1, 0.2]}, r"\(2,\) of them for 1000 steps"),
        ({"trained_betas": "x"}, "no table"),
        ({"beta_schedule": "scaled_linear", "beta_start": -1.0}, "no table"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr and prediction_type 'epsilon'"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale 3.0"),
        (
            {"rescale_betas_zero_snr": True, "num_train_timesteps": 1, "trained_betas": [0.1]},
            "one row",
        ),
        ({"trained_betas": [[0.1]], "num_train_timesteps": 1}, "no table"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas",
        ),
        ({"_class_name": "ScoreSdeVeScheduler", "beta_schedule": None}, "ScoreSdeVeScheduler"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        read_chain(LINEAR | change)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(LINEAR | change))
    with pytest.raises(ValueError, match=f"^{file} of .*{words}"):
        read_chain(tmp_path)


def test_a_pipeline_is_read_with_its_chain(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=40, beta_end=0.3, prediction_type="v_prediction", clip_sample=False
    )
    diffusers.DDIMPipeline(network, scheduler).save_pretrained(tmp_path)
    diffusion = load_pipeline(tmp_path)
    assert isinstance(diffusion.denoiser, UNet) and diffusion.denoiser.config["steps"] == 40
    assert diffusion.target.name == "v" and len(diffusion.schedule.alpha_bar) == 40

    x, step = torch.randn(2, 3, 8, 8), 29
    scheduler.set_timesteps(40)
    with torch.no_grad():
        y = network(x, torch.tensor(step)).sample
        expected = scheduler.step(y, step, x).prev_sample
        p = diffusion.predictor().predict(x, (step + 1) / 40)
    (s,) = diffusion.schedule.levels(torch.tensor([step / 40]))
    assert torch.allclose(p.at(s.alpha, s.sigma), expected, atol=1e-4)

    config = tmp_path / "scheduler" / "scheduler_config.json"
    with pytest.raises(
        ValueError, match=r"absent is given, and .*unet is loaded into UNet; leave it"
    ):
        load_pipeline(tmp_path, absent={"label": 1})
    config.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    flow = load_pipeline(tmp_path)
    with torch.no_grad():
        y = flow.denoiser(x, torch.full((2,), 0.25))
        expected = network(x, torch.tensor(250.0)).sample
    assert torch.equal(y, expected) and flow.target.name == "velocity"
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no scheduler_config\.json"):
        load_pipeline(tmp_path)


def test_a_pipeline_of_latents_is_drawn_from_as_diffusers_do(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), in_channels=2, out_channels=2,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=6,
    ).eval()  # fmt: skip
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=2, scaling_factor=0.3,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        timestep_spacing="trailing", set_alpha_to_one=True,
    )  # fmt: skip
    network.save_pretrained(tmp_path / "unet")
    autoencoder.save_pretrained(tmp_path / "vae")
    scheduler.save_pretrained(tmp_path / "scheduler")
    empty, tokens = torch.randn(3, 6), torch.randn(2, 3, 6)
    latent = load_pipeline(tmp_path, absent={"encoder_hidden_states": empty})
    assert isinstance(latent, Latent) and latent.scale.tolist() == pytest.approx([0.3, 0.3])
    tables = latent.schedule.alpha_bar.float(), scheduler.alphas_cumprod
    assert torch.allclose(*tables, rtol=0, atol=2e-6)  # theirs is a product in float32

    z = noise = torch.randn(2, 2, 4, 4)
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for step in scheduler.timesteps:
            both = network(torch.cat([z, z]), step, torch.cat([tokens, empty.expand(2, -1, -1)]))
            given, free = both.sample.chunk(2)
            z = scheduler.step(free + 2.0 * (given - free), step, z).prev_sample
        expected = autoencoder.decode(z / 0.3).sample
    guided = classifier_free(
        latent.predictor(encoder_hidden_states=tokens), latent.predictor(), 2.0
    )
    ours = sample(guided, noise, DDIM(), steps=5)
    assert torch.allclose(ours, z, atol=1e-5)
    assert torch.allclose(latent.decode(ours), expected, atol=1e-5)

    (tmp_path / "vae/diffusion_pytorch_model.safetensors").rename(tmp_path / "vae/weights")
    with pytest.raises(FileNotFoundError, match="vae cannot be read: "):
        load_pipeline(tmp_path)
    (tmp_path / "vae/config.json").write_text('{"_class_name": "DDIMScheduler"}')
    with pytest.raises(ValueError, match="vae holds 'DDIMScheduler', which is no network that"):
        load_pipeline(tmp_path)


def test_networks_of_edm_are_given_what_they_know():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EDMEulerScheduler(sigma_max=70.0, sigma_data=0.7)
    chain = read_chain(theirs.config)
    network = diffusers.UNet2DModel(
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    denoiser = FromDiffusers(network, chain.steps)
    diffusion = GaussianDiffusion(denoiser, chain.schedule, chain.prediction).eval()
    assert chain.schedule(torch.ones(1))[1].item() == pytest.approx(70)
    x, t = 3 * torch.randn(2, 3, 8, 8), 0.6
    sigma = chain.schedule(torch.tensor([t]))[1].float()
    with torch.no_grad():
        y = network(theirs.precondition_inputs(x, sigma), theirs.precondition_noise(sigma)).sample
        expected = theirs.precondition_outputs(x, y, sigma)
        ours = diffusion.predictor().predict(x, t).x0
    assert torch.allclose(ours, expected, atol=1e-5)
    with pytest.raises(ValueError, match="beta_start is nan"):  # of consistency models
        read_chain(diffusers.CMStochasticIterativeScheduler().config)
    for change in ({"prediction_type": "v_prediction"}, {"sigma_min": -1.0}, {"rho": "x"}):
        with pytest.raises(ValueError, match="EDMEulerScheduler has "):
            read_chain(dict(theirs.config) | {"_class_name": "EDMEulerScheduler"} | change)


def test_what_is_asked_of_sampling_is_named():
    diffusers = pytest.importorskip("diffusers")
    assert read_chain(LINEAR).left == ()
    found = LINEAR | {"clip_sample": True, "timestep_spacing": "leading", "set_alpha_to_one": False}
    assert [text.split()[0].rstrip(":") for text in read_chain(found).left] == [
        "clip_sample", "timestep_spacing", "set_alpha_to_one",
    ]  # fmt: skip
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert read_chain(diffusers.FlowMatchEulerDiscreteScheduler().config).prediction == "velocity"
    assert read_chain(flow).left == ("shift 3.0: steps that are denser at much noise",)

"""What polishing changes, and what it must not."""

from pathlib import Path

import pytest
import torch
from recipe import recogniser_of

from training.codec import encoder, polish, vocoder
from training.codec.config import new_codec
from training.codec.polish import FIRST_STEPS, SIZES, Polishing, Size


def test_the_vocoder_is_polished_and_the_codes_stay(clip: Path, tmp_path: Path, small_models):
    folder, speech, ear = tmp_path / "stages", {clip: 1.0}, recogniser_of(["a1"])
    codes, learned = folder / "codes.pt", folder / "vocoder.pt"
    encoder.train_codes(speech, clip, folder, 1e-6, "cpu")
    vocoder.train_slow_stages(codes, ear, speech, speech, folder, 1e-6, "cpu")
    vocoder.train_vocoder(
        codes, folder / "slow_stages.pt", ear, speech, speech, folder, 1e-6, "cpu"
    )
    polish.polish_vocoder(codes, learned, ear, speech, speech, folder, 1e-6, "cpu")
    before = vocoder.load_codec(codes, learned).state_dict()
    after = vocoder.load_codec(codes, folder / "polished.pt").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("head.", "quantizer.upsample.")) for name in changed)
    state = torch.load(folder / "polished.pt", weights_only=True)
    mean, learned = state["modules"]["decoder_mean"], state["modules"]["decoder"]
    assert all(torch.equal(mean[f"head.{k[5:]}"], after[k]) for k in after if k.startswith("head."))
    assert any(not torch.equal(mean[name], learned[name]) for name in mean)
    decoder, discriminators = (sides["param_groups"][0]["lr"] for sides in state["optimizers"])
    assert decoder > discriminators
    names = (folder / "polished.csv").read_text().splitlines()[0].split(",")
    assert {"valid_mel_l1", "valid_spectral", "deception", "likeness"} <= set(names)


def test_discriminators_gain_weight_as_they_learn(
    clip: Path, small_models, monkeypatch: pytest.MonkeyPatch
):
    size = Size(batch=(1, 8), width=4)
    polishing = Polishing(new_codec().eval(), None, {clip: 1.0}, "cpu", size)
    same = polishing.crops.draw_coded(0, *size.batch)
    monkeypatch.setattr(polishing.crops, "draw_coded", lambda *_: same)
    first, half, whole, later = (
        {name: loss.item() for name, loss in polishing.losses(step).items()}
        for step in (0, FIRST_STEPS // 2, FIRST_STEPS, 2 * FIRST_STEPS)
    )
    for name in ("deception", "likeness"):
        assert first[name] == 0 < whole[name] == later[name]
        assert half[name] == pytest.approx(whole[name] / 2, rel=1e-4)
    for name in ("spectral", "hearing", "told"):
        assert first[name] == pytest.approx(whole[name], rel=1e-4) and first[name] > 0


def test_each_side_of_the_polishing_gets_gradients(clip: Path, small_models):
    codec = new_codec().eval()
    polishing = Polishing(codec, None, {clip: 1.0}, "cpu", Size(batch=(1, 8), width=4))
    torch.stack(list(polishing.losses(FIRST_STEPS).values())).sum().backward()
    for module in (polishing.decoder, polishing.discriminators):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert all(p.grad is None for p in codec.backbone.parameters())


def test_a_gpu_gets_more_at_a_time():
    cpu, gpu = SIZES["cpu"], SIZES["cuda"]
    assert gpu.batch[0] > cpu.batch[0] and gpu.width > cpu.width

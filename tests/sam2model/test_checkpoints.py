"""Finding, checking and loading checkpoints; one clear line where something is wrong."""

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError
from safetensors.torch import save_file

import sam2model.checkpoints as checkpoints
from benchmarks.support.reference import draw_weights
from sam2model import VARIANTS, CheckpointError, build_model
from sam2model.checkpoints import PUBLISHED, PublishedWeights, find_checkpoint, identify
from sam2model.sam2 import SAM2
from sam2model.transformers_layout import to_transformers

DEMO = Path(checkpoints.__file__).parent / "weights" / "demo.safetensors"


def shapes(name: str) -> dict[str, torch.Tensor]:
    """A state dict of a variant without memory behind it."""
    with torch.device("meta"):
        return SAM2(VARIANTS[name]).state_dict()


@pytest.fixture(scope="module")
def demo_weights() -> dict[str, torch.Tensor]:
    return checkpoints.read_state_dict(DEMO)


def load_error(path: Path, name: str = "demo") -> str:
    with pytest.raises(CheckpointError) as caught:
        build_model(name, path, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


class TestFormats:
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_pickles(self, tmp_path, demo_weights, wrapped):
        path = tmp_path / "weights.pt"
        torch.save({"model": demo_weights} if wrapped else demo_weights, path)
        model = build_model("demo", path, device="cpu")
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, demo_weights[name].float()), name

    def test_safetensors(self, tmp_path, demo_weights):
        path = tmp_path / "weights.safetensors"
        save_file(demo_weights, path)
        model = build_model("demo", str(path), device="cpu")
        assert torch.equal(model.no_obj_ptr, demo_weights["no_obj_ptr"].float())

    def test_the_positions_follow_the_loaded_frequencies(self, demo_weights):
        model = build_model("demo", device="cpu")
        encoder = model.sam_prompt_encoder
        torch.testing.assert_close(encoder.dense_pe, encoder.pe_layer.grid(16, 16))


@pytest.fixture(scope="module")
def edgetam_weights() -> dict[str, torch.Tensor]:
    return draw_weights(SAM2(VARIANTS["edgetam"], 256).state_dict(), seed=0)


class TestEdgeTAM:
    @pytest.mark.parametrize("layout", ["Meta", "transformers"])
    def test_both_layouts(self, tmp_path, edgetam_weights, layout):
        path = tmp_path / "weights.safetensors"
        stored = edgetam_weights if layout == "Meta" else to_transformers(edgetam_weights)
        save_file({name: value.contiguous().clone() for name, value in stored.items()}, path)
        model = build_model("edgetam", path, device="cpu", image_size=256)
        for name, value in model.state_dict().items():
            assert torch.equal(value, edgetam_weights[name]), name
        assert "looks like edgetam; pass 'edgetam'" in load_error(path)

    @pytest.mark.parametrize("key", ["no_object_pointer", "prompt_encoder.point_embed.weight"])
    def test_what_the_other_layout_lacks_is_named(self, tmp_path, edgetam_weights, key):
        stored = to_transformers(edgetam_weights)
        del stored[key]
        path = tmp_path / "weights.pt"
        torch.save(stored, path)
        message = load_error(path, "edgetam")
        assert "looks like edgetam, but" in message
        assert ("no_obj_ptr" if "pointer" in key else "point_embeddings.0.weight") in message

    @pytest.mark.parametrize("size", [128, 1000, 1056])
    def test_sizes_that_the_perceiver_cannot_divide(self, size):
        with pytest.raises(ValueError, match="multiple of 256"):
            SAM2(VARIANTS["edgetam"], size)


class TestMisfits:
    @pytest.mark.parametrize("name", list(VARIANTS))
    def test_every_variant_is_recognised(self, name):
        assert identify(shapes(name)) == name

    def test_another_variant_is_named(self, tmp_path, monkeypatch):
        path = tmp_path / "small.pt"
        monkeypatch.setattr(checkpoints, "read_state_dict", lambda _: shapes("sam2.1_hiera_small"))
        path.touch()
        assert re.search(r"looks like sam2\.1_hiera_small; pass", load_error(path))

    def test_the_other_generation_is_named(self, tmp_path, demo_weights):
        # Everything SAM 2.1 added is taken away, on the tiny model's trunk.
        weights = {k: torch.zeros(v.shape) for k, v in shapes("sam2_hiera_tiny").items()}
        path = tmp_path / "old.pt"
        torch.save({"model": weights}, path)
        assert "looks like sam2_hiera_tiny; pass" in load_error(path, "sam2.1_hiera_tiny")

    @pytest.mark.parametrize(
        ("change", "culprit"),
        [
            (lambda w: w.pop("no_obj_ptr"), "no_obj_ptr"),
            (lambda w: w.update(surplus=torch.zeros(1)), "surplus"),
            (lambda w: w.update(no_obj_ptr=torch.zeros(1, 7)), "no_obj_ptr"),
        ],
    )
    def test_the_tensors_that_do_not_fit_are_named(self, tmp_path, demo_weights, change, culprit):
        weights = dict(demo_weights)
        change(weights)
        path = tmp_path / "weights.pt"
        torch.save(weights, path)
        message = load_error(path)
        assert "looks like demo, but" in message
        assert culprit in message

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("vision_encoder.backbone.patch_embed.projection.weight", "transformers"),
            ("image_encoder.blocks.0.norm1.weight", "first SAM"),
            ("something.else", "unknown model"),
        ],
    )
    def test_other_models_are_told_apart(self, tmp_path, key, message):
        path = tmp_path / "weights.pt"
        torch.save({key: torch.zeros(1)}, path)
        assert message in load_error(path)


class TestDamage:
    def test_missing_file(self, tmp_path):
        assert "there is no such file" in load_error(tmp_path / "absent.pt")

    def test_directory(self, tmp_path):
        assert "directory" in load_error(tmp_path)

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    @pytest.mark.parametrize(
        "content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short", b"this is text"]
    )
    def test_garbage(self, tmp_path, suffix, content):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        assert "damaged" in load_error(path)

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_cut_short(self, tmp_path, demo_weights, suffix):
        whole = tmp_path / f"whole{suffix}"
        if suffix == ".pt":
            torch.save(demo_weights, whole)
        else:
            save_file(demo_weights, whole)
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        assert "damaged" in load_error(path)

    @pytest.mark.parametrize("content", [{}, [1, 2], {"model": {}}, {"model": {"a": 1}}, 3])
    def test_no_state_dict(self, tmp_path, content):
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        assert "no state dict" in load_error(path)

    @pytest.mark.parametrize("archive", [True, False])
    def test_pickles_cannot_run_code(self, tmp_path, archive):
        witness = tmp_path / "witness"

        class Exploit:
            def __reduce__(self):
                return Path.touch, (witness,)

        path = tmp_path / "weights.pt"
        if archive:
            torch.save({"model": Exploit()}, path)
        else:
            path.write_bytes(pickle.dumps({"model": Exploit()}, protocol=2))
        load_error(path)
        assert not witness.exists()


class TestPublished:
    def test_every_official_variant_has_weights(self):
        assert set(PUBLISHED) == set(VARIANTS) - {"demo"}
        assert PUBLISHED["sam2.1_hiera_base_plus"].repo == "facebook/sam2.1-hiera-base-plus"
        assert PUBLISHED["sam2.1_hiera_base_plus"].filename == "sam2.1_hiera_base_plus.pt"
        assert PUBLISHED["sam2_hiera_tiny"].repo == "facebook/sam2-hiera-tiny"
        assert PUBLISHED["edgetam"].repo == "facebook/EdgeTAM"

    @pytest.fixture
    def download(self, tmp_path, monkeypatch):
        """A hub that serves one file; returns its path and the requests it got."""
        path = tmp_path / "download.pt"
        path.write_bytes(b"weights")
        requests = []

        def hf_hub_download(repo: str, filename: str, revision: str | None) -> str:
            requests.append((repo, filename, revision))
            return str(path)

        monkeypatch.setattr(checkpoints, "hf_hub_download", hf_hub_download)
        return path, requests

    def test_pinned_revision_and_digest(self, monkeypatch, download):
        path, requests = download
        digest = hashlib.sha256(b"weights").hexdigest()
        published = PublishedWeights("owner/repo", "file.pt", "abc", digest)
        monkeypatch.setattr(checkpoints, "PUBLISHED", {"sam2_hiera_tiny": published})
        assert find_checkpoint("sam2_hiera_tiny") == path
        assert requests == [("owner/repo", "file.pt", "abc")]

    def test_a_git_blob_id_stands_for_a_digest(self, monkeypatch, download):
        path, _ = download
        # What "git hash-object" prints of the file.
        known = PublishedWeights(
            "o/r", "f.pt", None, None, git_blob="3ab313fff6f41bb35969cd359e9ddfb8033b3ac2"
        )
        monkeypatch.setattr(checkpoints, "PUBLISHED", {"edgetam": known})
        assert find_checkpoint("edgetam") == path

    @pytest.mark.parametrize(
        ("name", "what_to_do"),
        [
            ("sam2_hiera_tiny", "delete it to download it again"),
            ("edgetam", "9cc44bfe9e16cc374242917b91283c718410ea87/checkpoints/edgetam.pt"),
        ],
    )
    def test_another_file_than_the_published_one_is_refused(self, download, name, what_to_do):
        with pytest.raises(CheckpointError, match=rf"not the published {name}\.pt") as caught:
            find_checkpoint(name)
        assert what_to_do in str(caught.value)

    def test_no_network(self, monkeypatch):
        def hf_hub_download(*_: object, **__: object) -> str:
            raise LocalEntryNotFoundError("no connection")

        monkeypatch.setattr(checkpoints, "hf_hub_download", hf_hub_download)
        with pytest.raises(CheckpointError, match=r"no network.*pass its path as checkpoint=") as e:
            build_model("sam2.1_hiera_tiny", device="cpu")
        assert "\n" not in str(e.value)

    def test_an_answer_of_the_hub_is_passed_on_in_one_line(self, monkeypatch):
        import httpx2

        response = httpx2.Response(404, request=httpx2.Request("GET", "http://hub.invalid/"))

        def hf_hub_download(*_: object, **__: object) -> str:
            raise RevisionNotFoundError("404 Client Error.\n\nmore", response=response)

        monkeypatch.setattr(checkpoints, "hf_hub_download", hf_hub_download)
        with pytest.raises(CheckpointError, match=r"cannot download.*404 Client Error") as e:
            find_checkpoint("sam2.1_hiera_tiny")
        assert "\n" not in str(e.value)


def test_unknown_variant():
    with pytest.raises(ValueError, match="known variants: sam2_hiera_tiny, "):
        build_model("sam3", device="cpu")

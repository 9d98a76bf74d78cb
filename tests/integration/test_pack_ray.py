"""Packing on a Ray cluster: the same bytes as here, and one clear line when a node does not see the folder."""

from pathlib import Path

import pytest

from distseg.data.layouts import read_corpus
from distseg.data.pack import pack
from distseg.data.synthetic.carvana import write_carvana
from distseg.errors import DataError


@pytest.mark.ray
def test_a_cluster_packs_the_same_bytes(tmp_path: Path) -> None:
    from distseg.on_ray.pack import _on_node, cluster

    write_carvana(tmp_path / "raw", groups=4, views=4, size=(64, 64))
    corpus = read_corpus("carvana", tmp_path / "raw")
    here = pack(corpus, tmp_path / "here", size=(32, 24), folds=2, samples_per_shard=3)
    seen: list[tuple[int, int]] = []
    with cluster() as elsewhere:
        there = pack(
            corpus,
            tmp_path / "there",
            size=(32, 24),
            folds=2,
            samples_per_shard=3,
            elsewhere=elsewhere,
            progress=lambda done, total: seen.append((done, total)),
        )
        assert here == there
        assert len(here.shards) > 4  # more than run at once on two cores
        files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("here", "there")]
        assert files[0] == files[1]
        assert seen[-1] == (16, 16)

        (tmp_path / "raw/train_masks").joinpath(f"{corpus.samples[5].key}_mask.gif").write_bytes(b"no picture")
        with pytest.raises(DataError, match=f"sample '{corpus.samples[5].key}'.*nothing was packed"):
            pack(corpus, tmp_path / "bad", size=None, elsewhere=elsewhere)
        assert not [path for path in tmp_path.iterdir() if "bad" in path.name]

        class Task:
            path = tmp_path / "on another node" / "train-000000.tar"

        with pytest.raises(DataError, match="not seen by every node") as caught:
            list(elsewhere(_on_node, [Task()]))
        assert "\n" not in str(caught.value)

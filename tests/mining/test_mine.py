"""`raycol mine` as a whole, in this process."""

from pathlib import Path

import pyarrow.parquet as pq

from raycol.mining import MineConfig, mine_negatives


def test_first(beir: Path, index: Path, tmp_path: Path, without_ray: list[int]) -> None:
    report = mine_negatives(
        MineConfig(index=index, data=str(beir), out=tmp_path / "o", queries_per_part=7, to_rank=40)
    )
    print(report)
    for f in sorted((tmp_path / "o").iterdir()):
        print(f)
    print(pq.read_table(tmp_path / "o/part-00000.parquet").to_pylist()[:3])
    assert 0

"""One reader for each file format, by the name of the format."""

from raycol.data.readers.delimited import DelimitedReader
from raycol.data.readers.hub import DatasetReader
from raycol.data.readers.ir import IrDatasetsReader
from raycol.data.readers.jsonl import JsonLinesReader
from raycol.data.readers.npz import NpzReader
from raycol.data.readers.parquet import ParquetReader
from raycol.data.readers.reader import READERS

READERS.update(
    jsonl=JsonLinesReader(),
    csv=DelimitedReader("csv"),
    tsv=DelimitedReader("tsv"),
    parquet=ParquetReader(),
    npz=NpzReader(),
    dataset=DatasetReader(),
    ir=IrDatasetsReader(),
)

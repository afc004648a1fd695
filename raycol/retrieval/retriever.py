"""`Retriever`: texts in, hits with texts out, over an index or a running endpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from raycol.client.schema import MAX_K, MAX_QUERIES, SearchHit
from raycol.core.arguments import named_arguments
from raycol.errors import ArgumentError, InputError
from raycol.index.format.document import encoded_text
from raycol.index.search.effort import Effort
from raycol.models.exported import SETTINGS, ExportedEncoder

if TYPE_CHECKING:
    from raycol.client.sync_client import Client
    from raycol.index import Hit, Searcher
    from raycol.models.protocol import Encoder

from raycol.retrieval.results import Explanation, Hits, Results, explanation


class Retriever:
    """Search with texts: an encoder and an index, or an endpoint. Both give the same results.

        retriever = raycol.Retriever("my-index")
        for hit in retriever.search("how do I parse a date?", k=3):
            print(hit.score, hit.id, hit.text)

    Args:
        target: folder or URI of an index, an open `Index`, or an endpoint's URL (http://...).
        model: the index's encoder if it has moved or was exported (`raycol.export`), or an `Encoder` of your own.
            Default: the one that the index records. Not for an endpoint.
        device: torch device of the encoder; by default the best that torch sees. Not for an endpoint.
        api_key: API key of an endpoint; by default the environment variable RAYCOL_API_KEY.
        version: version of the index; by default the newest. Not for an endpoint.
        trust: skip the checksums of the index's files. Not for an endpoint.

    Raises:
        InputError: no index, no usable model, another model than the index's, or an argument that the target ignores.
    """

    @named_arguments
    def __init__(
        self,
        target: str | Path | Searcher,
        *,
        model: str | Path | Encoder | None = None,
        device: str | None = None,
        api_key: str | None = None,
        version: int | None = None,
        trust: bool = False,
    ) -> None:
        self._backend: _Backend
        if is_url(target):
            given = {"model": model, "device": device, "version": version, "trust": trust or None}
            if unused := [name for name, value in given.items() if value is not None]:
                raise InputError(f"{unused[0]}: an endpoint sets this itself; leave it out, or open an index")
            from raycol.client.sync_client import Client

            self._backend = _Endpoint(Client(str(target), api_key=api_key))
            return
        from raycol.index import Searcher

        if api_key is not None:
            raise InputError("api_key: it is for an endpoint, and the target is an index; leave it out")
        if isinstance(target, Searcher) and (version is not None or trust):
            raise InputError("version and trust: the index is open already; leave them out")
        index = target if isinstance(target, Searcher) else Searcher(target, version, trust=trust)
        self._backend = _Folder(index, _open_encoder(index, model, device))

    @overload
    def search(self, texts: str, k: int = 10, **settings: Any) -> Hits: ...  # type: ignore[overload-overlap]

    @overload
    def search(self, texts: Sequence[str], k: int = 10, **settings: Any) -> Results: ...

    def search(
        self,
        texts: str | Sequence[str],
        k: int = 10,
        *,
        filter: str | None = None,  # noqa: A002
        ids: Iterable[str] | None = None,
        effort: Effort = "default",
        **settings: Any,
    ) -> Hits | Results:
        """Return the best `k` documents of each text, with their texts and metadata; of one text, its hits.

        Args:
            texts: query texts, or one.
            k: hits per query.
            filter: a SQL condition over metadata columns, such as "lang = 'en' AND year >= 2020" (docs/filters.md).
            ids: search only these documents.
            effort: fast, default or thorough.
            settings: further arguments of `Index.search`, such as `n_probe`, `n_rescore`, `threads` and `device`; for
                an endpoint, of `Client.search`.

        Raises:
            InputError: an empty text, `k` or a setting out of range, or an invalid filter.
            RaycolError: the endpoint cannot be reached, or only a part of its shards answers.
        """
        queries = check_texts(texts)
        ids = None if ids is None else _check_ids(ids)
        results = self._backend.search(queries, k, {"filter": filter, "ids": ids, "effort": effort, **settings})
        found = Results(Hits(query, hits) for query, hits in zip(queries, results, strict=True))
        return found[0] if isinstance(texts, str) else found

    @overload
    def rerank(self, texts: str, ids: Iterable[str]) -> Hits: ...  # type: ignore[overload-overlap]

    @overload
    def rerank(self, texts: Sequence[str], ids: Iterable[Iterable[str]]) -> Results: ...

    def rerank(self, texts: str | Sequence[str], ids: Iterable[Any]) -> Hits | Results:
        """Score documents of the index exactly, such as a lexical engine's candidates; best first.

        Args:
            texts: query texts, or one.
            ids: for each text, the ids of its documents; for one text, a list of ids. An endpoint gets one request
                for 1,000 of them.

        Raises:
            InputError: an id that is not in the index, or another number of lists than of texts.
        """
        queries = check_texts(texts)
        ids_by_query = [_check_ids(ids)] if isinstance(texts, str) else [_check_ids(each) for each in ids]
        if len(ids_by_query) != len(queries):
            raise InputError(f"{len(queries)} texts and {len(ids_by_query)} lists of ids; expected one list per text")
        results = self._backend.rerank(queries, ids_by_query)
        found = Results(Hits(query, hits) for query, hits in zip(queries, results, strict=True))
        return found[0] if isinstance(texts, str) else found

    def explain(self, text: str, id: str) -> Explanation:  # noqa: A002
        """Explain a score: the document token that each query token matches, as strings, with their similarity.

        Raises:
            InputError: the document is not in the index.
        """
        (query,) = check_texts([text])
        return self._backend.explain(query, id)

    def encode(self, texts: Sequence[str], *, is_query: bool = True) -> list[NDArray[np.float32]]:
        """Return the token embeddings of each text, float32 [n_tokens, dim]; of documents with `is_query=False`."""
        return self._backend.encode(check_texts(texts), is_query)

    def close(self) -> None:
        """Close the connections to an endpoint."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Retriever of {self._backend}>"


class _Backend(ABC):
    """What a retriever needs of an index or an endpoint."""

    @abstractmethod
    def search(self, queries: list[str], k: int, settings: Mapping[str, Any]) -> Sequence[Sequence[Hit]]: ...

    @abstractmethod
    def rerank(self, queries: list[str], ids: list[list[str]]) -> Sequence[Sequence[Hit]]: ...

    @abstractmethod
    def explain(self, query: str, id_: str) -> Explanation: ...

    @abstractmethod
    def encode(self, texts: list[str], is_query: bool) -> list[NDArray[np.float32]]: ...

    def close(self) -> None:  # noqa: B027 - an index has nothing to close
        """Close connections."""


class _Folder(_Backend):
    def __init__(self, index: Searcher, encoder: Encoder) -> None:
        self._index = index
        self._encoder = encoder

    def __str__(self) -> str:
        return repr(self._index)

    def search(self, queries: list[str], k: int, settings: Mapping[str, Any]) -> Sequence[Sequence[Hit]]:
        return self._index.search(self._encoder.encode_query(queries), k, with_metadata=True, **settings)

    def rerank(self, queries: list[str], ids: list[list[str]]) -> Sequence[Sequence[Hit]]:
        return self._index.rerank(self._encoder.encode_query(queries), ids, with_metadata=True)

    def explain(self, query: str, id_: str) -> Explanation:
        from raycol.models.protocol import Tokenizing

        (query_QD,) = self._encoder.encode_query([query])
        matches = self._index.explain(query_QD, id_)
        text = encoded_text(self._index.metadata([id_])[0])
        if not isinstance(self._encoder, Tokenizing):
            return explanation(query, id_, text, [], None, matches)
        query_tokens = [token for token, _, _ in self._encoder.tokens(query, True)]
        document = None if text is None else self._encoder.tokens(text, False)
        pooled = self._index.manifest.pool_factor != 1
        aligned = document and not pooled and max(match.document_token for match in matches) < len(document)
        return explanation(query, id_, text, query_tokens, document if aligned else None, matches)

    def encode(self, texts: list[str], is_query: bool) -> list[NDArray[np.float32]]:
        return self._encoder.encode_query(texts) if is_query else self._encoder.encode_document(texts)


class _Endpoint(_Backend):
    def __init__(self, client: Client) -> None:
        self._client = client

    def __str__(self) -> str:
        return self._client.url

    def search(self, queries: list[str], k: int, settings: Mapping[str, Any]) -> Sequence[Sequence[Hit]]:
        results: list[list[Hit]] = []
        # A hit says nothing about shards: a partial answer would go unnoticed.
        settings = {"allow_partial": False, **settings}
        for start in range(0, len(queries), MAX_QUERIES):
            try:
                answer = self._client.search(queries=queries[start : start + MAX_QUERIES], k=k, **settings)
            except ArgumentError as error:
                raise ArgumentError(f"{error}; an endpoint sets this itself, or does not know it") from None
            results += [list(map(_to_hit, hits)) for hits in answer.results]
        return results

    def rerank(self, queries: list[str], ids: list[list[str]]) -> Sequence[Sequence[Hit]]:
        return [self._rerank(query, query_ids) for query, query_ids in zip(queries, ids, strict=True)]

    def _rerank(self, query: str, ids: list[str]) -> list[Hit]:
        # A search of `k` documents or fewer scores all of them exactly, and unlike a rerank returns their texts.
        hits: dict[str, Hit] = {}
        for start in range(0, len(ids), MAX_K):
            some = ids[start : start + MAX_K]
            answer = self._client.search(query, ids=some, k=len(some), allow_partial=False)
            hits |= {hit.id: _to_hit(hit) for hit in answer.results[0]}
        if unknown := [id_ for id_ in ids if id_ not in hits]:
            raise InputError(f"document {unknown[0]!r} is not in the index of {self}")
        return sorted(hits.values(), key=lambda hit: (-hit.score, hit.id))

    def explain(self, query: str, id_: str) -> Explanation:
        answer = self._client.explain(query, id_)
        document = answer.document_tokens
        return explanation(
            query,
            id_,
            answer.text,
            [token.text for token in answer.query_tokens],
            None if document is None else [(token.text, token.start, token.end) for token in document],
            answer.matches,
        )

    def encode(self, texts: list[str], is_query: bool) -> list[NDArray[np.float32]]:
        return self._client.embeddings(texts, is_query=is_query) if texts else []

    def close(self) -> None:
        self._client.close()


def _open_encoder(index: Searcher, model: str | Path | Encoder | None, device: str | None) -> Encoder:
    """Open the encoder by its name, or check that an `Encoder` is the index's."""
    if isinstance(model, str | Path) and (Path(model) / SETTINGS).is_file():
        model = ExportedEncoder(model)
    if model is None or isinstance(model, str | Path):
        # Imports torch, which takes seconds: after the index was opened.
        from raycol.models.encoder import load_index_encoder
        from raycol.models.text_encoder import TextEncoder

        return TextEncoder(
            load_index_encoder(index.manifest.model, None if model is None else str(model), device=device)
        )
    if device is not None:
        raise InputError("device: the encoder is open already; leave it out")
    if model.dimension != index.manifest.dim:
        raise InputError(f"the encoder has {model.dimension} dimensions; the index has {index.manifest.dim}")
    recorded = index.manifest.model
    if recorded and recorded.fingerprint != model.fingerprint:
        raise InputError(
            f"the encoder is not the one the index was built with ({recorded.name!r}): its fingerprint is "
            f"{model.fingerprint!r:.60}, the index's {recorded.fingerprint!r:.60}"
        )
    return model


def _to_hit(hit: SearchHit) -> Hit:
    from raycol.index import Hit

    text = {} if hit.text is None else {"text": hit.text}
    return Hit(hit.id, hit.score, {**text, **hit.metadata})


def is_url(target: object) -> bool:
    """Whether a target is an endpoint's URL."""
    return isinstance(target, str) and target.startswith(("http://", "https://"))


def check_texts(texts: str | Sequence[str]) -> list[str]:
    """Return query texts as a list. Raises `InputError` for an empty text or another type."""
    if not isinstance(texts, str | Iterable):
        raise InputError(f"texts is a {type(texts).__name__}; expected a text, or a list of texts")
    checked = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(checked):
        if not isinstance(text, str):
            raise InputError(
                f"text {number} is a {type(text).__name__}; expected a string (raycol.Index searches with embeddings)"
            )
        if not text.strip():
            raise InputError("an empty query; expected some text")
    return checked


def _check_ids(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"ids is {ids!r:.60}; expected a list of ids")
    return list(ids)

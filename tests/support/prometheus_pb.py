"""Prometheus' protobuf messages by the protobuf library, as an oracle for our own codecs."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_KINDS: Final = {
    "double": _FIELD.TYPE_DOUBLE,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "enum": _FIELD.TYPE_INT32,  # the same on the wire
    "string": _FIELD.TYPE_STRING,
    # A peer may send any bytes; the library would refuse the message as a whole.
    "text": _FIELD.TYPE_BYTES,
}

#: Name, number and type of the fields of each message; ``*`` is repeated.
_MESSAGES: Final[dict[str, list[tuple[str, int, str]]]] = {
    "Label": [("name", 1, "text"), ("value", 2, "text")],
    "Sample": [("value", 1, "double"), ("timestamp", 2, "int64")],
    "Exemplar": [("labels", 1, "*Label"), ("value", 2, "double"), ("timestamp", 3, "int64")],
    "Histogram": [("count", 1, "double"), ("timestamp", 15, "int64")],
    "TimeSeries": [
        ("labels", 1, "*Label"),
        ("samples", 2, "*Sample"),
        ("exemplars", 3, "*Exemplar"),
        ("histograms", 4, "*Histogram"),
    ],
    "MetricMetadata": [
        ("type", 1, "enum"),
        ("metric_family_name", 2, "text"),
        ("help", 4, "text"),
        ("unit", 5, "text"),
    ],
    "WriteRequest": [("timeseries", 1, "*TimeSeries"), ("metadata", 3, "*MetricMetadata")],
    "Exemplar2": [("labels_refs", 1, "*uint32"), ("value", 2, "double"), ("timestamp", 3, "int64")],
    "Metadata2": [("type", 1, "enum"), ("help_ref", 3, "uint32"), ("unit_ref", 4, "uint32")],
    "TimeSeries2": [
        ("labels_refs", 1, "*uint32"),
        ("samples", 2, "*Sample"),
        ("histograms", 3, "*Histogram"),
        ("exemplars", 4, "*Exemplar2"),
        ("metadata", 5, "Metadata2"),
        ("created_timestamp", 6, "int64"),
    ],
    "Request2": [("symbols", 4, "*text"), ("timeseries", 5, "*TimeSeries2")],
    "LabelMatcher": [("type", 1, "enum"), ("name", 2, "string"), ("value", 3, "string")],
    "Query": [
        ("start_timestamp_ms", 1, "int64"),
        ("end_timestamp_ms", 2, "int64"),
        ("matchers", 3, "*LabelMatcher"),
    ],
    "ReadRequest": [("queries", 1, "*Query"), ("accepted_response_types", 2, "*enum")],
    "QueryResult": [("timeseries", 1, "*TimeSeries")],
    "ReadResponse": [("results", 1, "*QueryResult")],
}


def _build() -> dict[str, Any]:
    # A pool of its own: packages with generated files register the same names in the default one.
    file = descriptor_pb2.FileDescriptorProto(
        name="oracle.proto", package="oracle", syntax="proto3"
    )
    for name, members in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for member, number, kind in members:
            repeated = kind.startswith("*")
            kind = kind.removeprefix("*")
            field = message.field.add(
                name=member,
                number=number,
                label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
            )
            if kind in _KINDS:
                field.type = _KINDS[kind]
            else:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".oracle.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"oracle.{name}"))
        for name in _MESSAGES
    }


_CLASSES: Final = _build()


def new(name: str, **members: Any) -> Any:
    """Make a message; nested ones are given as dicts or messages."""
    return _CLASSES[name](**members)


def parse(name: str, data: bytes) -> Any:
    """Parse a message. Raises ``google.protobuf.message.DecodeError``."""
    return _CLASSES[name].FromString(data)


def series(
    labels: dict[str, str] | list[tuple[str | bytes, str | bytes]],
    samples: list[tuple[int, float]],
    **members: Any,
) -> Any:
    """Make a ``TimeSeries`` of 1.0; samples are time and value."""
    pairs = sorted(labels.items()) if isinstance(labels, dict) else labels
    return new(
        "TimeSeries",
        labels=[{"name": _bytes(name), "value": _bytes(value)} for name, value in pairs],
        samples=[{"timestamp": ts_ms, "value": value} for ts_ms, value in samples],
        **members,
    )


def write_request(*parts: Any, metadata: list[dict[str, Any]] | None = None) -> bytes:
    """Serialize a ``WriteRequest`` of some ``TimeSeries``."""
    request = new("WriteRequest", timeseries=list(parts), metadata=metadata or [])
    data: bytes = request.SerializeToString()
    return data


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text

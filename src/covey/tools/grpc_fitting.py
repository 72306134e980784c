"""Whether who knows one part of a protobuf contract is served by another: method by method, field by field.

Fields are compared by their numbers, which is what is sent. One of another name under a known number is another field:
it means something else. A value that an enumeration of an answer has gained is held to be borne, for enumerations of
proto3 are open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

_WIDER = {
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64),
    (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64),
    (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_INT64),
    (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64),
}
"""What is written as the first of each can be read as the second."""


def methods_of(files: FileDescriptorSet) -> dict[str, MethodDescriptor]:
    """Return every method by its name on the wire, such as `user.v1.UserService/GetUser`."""
    pool = DescriptorPool()
    for file in files.file:  # each after what it imports
        pool.Add(file)
    found = [pool.FindFileByName(file.name).services_by_name.values() for file in files.file]
    return {
        f"{service.full_name}/{method.name}": method
        for services in found
        for service in services
        for method in service.methods
    }


def method_misfits(client: MethodDescriptor, server: MethodDescriptor) -> Iterator[str]:
    """Yield every way in which a method of the server is not the one that the client knows."""
    if (client.client_streaming, client.server_streaming) != (server.client_streaming, server.server_streaming):
        yield "it streams otherwise than is known"
        return
    yield from _Walk(sent=True).misfits(client.input_type, server.input_type, "")
    yield from _Walk(sent=False).misfits(client.output_type, server.output_type, "")


@dataclass(frozen=True, slots=True)
class _Walk:
    """Through what a client sends, or reads. The fields that it does not know are nothing to it."""

    sent: bool
    seen: frozenset[tuple[str, str]] = frozenset()

    def misfits(self, client: Descriptor, server: Descriptor, path: str) -> Iterator[str]:
        pair = (client.full_name, server.full_name)
        if pair in self.seen:
            return
        within = replace(self, seen=self.seen | {pair})
        for field in client.fields:
            place = f"{path}.{field.name}" if path else field.name
            known = server.fields_by_number.get(field.number)
            if known is None:
                yield f"{place}: it is sent, and is not known" if self.sent else f"{place}: it is read, and is not sent"
            elif known.name != field.name:
                verb = "sent" if self.sent else "read"
                yield f"{place}: number {field.number} is {known.name}, and {field.name} is {verb}"
            else:
                yield from within._field(field, known, place)

    def _field(self, client: FieldDescriptor, server: FieldDescriptor, place: str) -> Iterator[str]:
        written, read = (client, server) if self.sent else (server, client)
        if written.is_repeated != read.is_repeated or not _same_type(written, read):
            yield f"{place}: it is {_shown(written)}, and {_shown(read)} is read"
        elif _alternatives(server) and not _alternatives(client):
            yield f"{place}: it is one of {' or '.join(_alternatives(server))}, and is known as a field of its own"
        elif client.message_type is not None and server.message_type is not None:
            yield from self.misfits(client.message_type, server.message_type, place)
        elif client.enum_type is not None and server.enum_type is not None:
            yield from self._values(client.enum_type, server.enum_type, place)

    def _values(self, client: EnumDescriptor, server: EnumDescriptor, place: str) -> Iterator[str]:
        for number, value in client.values_by_number.items():
            known = server.values_by_number.get(number)
            if known is None and self.sent:
                yield f"{place}: it may be {value.name}, which is not known"
            elif known is not None and known.name != value.name:
                yield f"{place}: number {number} is {known.name}, and is known as {value.name}"


def _same_type(written: FieldDescriptor, read: FieldDescriptor) -> bool:
    return written.type == read.type or (written.type, read.type) in _WIDER


def _alternatives(field: FieldDescriptor) -> list[str]:
    """Return the fields of which only one is there at a time, this among them; of an `optional` field none."""
    group = field.containing_oneof
    return [one.name for one in group.fields] if group is not None and len(group.fields) > 1 else []


def _shown(field: FieldDescriptor) -> str:
    kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()  # type: ignore[arg-type]
    named = field.message_type or field.enum_type
    return f"{'repeated ' if field.is_repeated else ''}{named.name if named is not None else kind}"

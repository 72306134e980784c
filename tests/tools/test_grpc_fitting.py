"""A change of a gRPC contract is told with the method, and with who breaks: a service, or whoever knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from covey.tools.contracts import Contracts, hold

NO_MESSAGES: dict[str, Any] = {"operations": {}}

PUBLISHED = """
syntax = "proto3";
package walls.v1;
service Walls {
  rpc Show(ShowRequest) returns (ShowResponse);
  rpc Paint(PaintRequest) returns (PaintResponse);
}
enum Colour {
  COLOUR_UNSPECIFIED = 0;
  COLOUR_RED = 1;
  COLOUR_BLUE = 2;
}
message Wall {
  string id = 1;
  int32 height = 2;
  Colour colour = 3;
  repeated string notes = 4;
  map<string, int64> bricks = 5;
  Wall next = 6;
}
message ShowRequest { string id = 1; }
message ShowResponse { Wall wall = 1; }
message PaintRequest {
  string id = 1;
  Colour colour = 2;
  uint32 coats = 3;
}
message PaintResponse {}
"""

READ_BY_HOUSE = PUBLISHED.replace("  int32 height = 2;\n", "")


def compiled(folder: Path, text: str) -> FileDescriptorSet:
    """Compile in this process, which is quicker than `covey.tools.proto` and says less of mistakes."""
    (folder / "walls.proto").write_text(text)
    files = folder / "files"
    assert protoc.main(["protoc", f"--proto_path={folder}", f"--descriptor_set_out={files}", "walls.proto"]) == 0
    return FileDescriptorSet.FromString(files.read_bytes())


def told(folder: Path, now: str, then: str | None = None) -> list[str]:
    """What the gate says to walls, whose part house reads, and of whose last release others know."""
    contracts = {
        "walls": Contracts(
            asyncapi=NO_MESSAGES,
            proto=compiled(folder, now),
            released_proto=None if then is None else compiled(folder, then),
        ),
        "house": Contracts(asyncapi=NO_MESSAGES, reads_proto=compiled(folder, READ_BY_HOUSE)),
    }
    return [str(breach) for breach in hold(contracts).breaches]


def changed(old: str, new: str) -> str:
    assert old in PUBLISHED
    return PUBLISHED.replace(old, new)


def test_what_fits_breaks_nobody(tmp_path: Path) -> None:
    assert told(tmp_path, PUBLISHED, PUBLISHED) == []


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("  rpc Show(ShowRequest) returns (ShowResponse);", "", "Show", "there is no such method"),
        ("returns (ShowResponse)", "returns (stream ShowResponse)", "Show", "it streams otherwise than is known"),
        ("  string id = 1;\n  int32", "  int32", "Show", "wall.id: it is read, and is not sent"),
        ("  string id = 1;\n  int32", "  string id = 7;\n  int32", "Show", "wall.id: it is read, and is not sent"),
        ("  string id = 1;\n  int32", "  int64 id = 1;\n  int32", "Show", "wall.id: it is int64, and string is read"),
        ("string notes = 4", "string hints = 4", "Show", "wall.notes: number 4 is hints, and notes is read"),
        (
            "repeated string notes",
            "string notes",
            "Show",
            "wall.notes: it is string, and repeated string is read",
        ),
        ("<string, int64>", "<string, bool>", "Show", "wall.bricks.value: it is bool, and int64 is read"),
        (
            "Wall next = 6;",
            "oneof neighbour { Wall next = 6; string garden = 7; }",
            "Show",
            "wall.next: it is one of next or garden, and is known as a field of its own",
        ),
        ("  uint32 coats = 3;", "", "Paint", "coats: it is sent, and is not known"),
        ("uint32 coats = 3;", "bool coats = 3;", "Paint", "coats: it is uint32, and bool is read"),
        ("  COLOUR_BLUE = 2;\n", "", "Paint", "colour: it may be COLOUR_BLUE, which is not known"),
        ("COLOUR_BLUE", "COLOUR_PINK", "Show", "wall.colour: number 2 is COLOUR_PINK, and is known as COLOUR_BLUE"),
    ],
)
def test_a_method_that_changes_breaks_who_calls_it(tmp_path: Path, old: str, new: str, where: str, what: str) -> None:
    assert f"house breaks on walls.v1.Walls/{where} of walls: {what}" in told(tmp_path, changed(old, new))


def test_what_no_service_reads_breaks_who_knows_the_last_release(tmp_path: Path) -> None:
    now = changed("  int32 height = 2;\n", "")

    assert told(tmp_path, now) == []
    assert told(tmp_path, now, PUBLISHED) == [
        "who knows the last release breaks on walls.v1.Walls/Show of walls: wall.height: it is read, and is not sent"
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("message PaintResponse {}", "message PaintResponse { string id = 1; }"),
        ("uint32 coats = 3;", "uint64 coats = 3; bool twice = 4;"),
        ("COLOUR_BLUE = 2;", "COLOUR_BLUE = 2; COLOUR_GREEN = 3;"),
        ("string notes = 4;", "string notes = 4; optional int32 age = 7;"),
        ("service Walls {", "service Walls { rpc Build(PaintRequest) returns (PaintResponse);"),
    ],
)
def test_what_is_new_or_wider_breaks_nobody(tmp_path: Path, old: str, new: str) -> None:
    assert told(tmp_path, changed(old, new), PUBLISHED) == []


def test_an_answer_that_grows_wider_breaks_who_reads_the_narrow(tmp_path: Path) -> None:
    assert told(tmp_path, changed("int32 height", "int64 height"), PUBLISHED) == [
        "who knows the last release breaks on walls.v1.Walls/Show of walls: wall.height: it is int64, and int32 is read"
    ]


def test_a_service_that_nobody_publishes_breaks_who_calls_it(tmp_path: Path) -> None:
    contracts = {"house": Contracts(asyncapi=NO_MESSAGES, reads_proto=compiled(tmp_path, READ_BY_HOUSE))}

    assert [str(breach) for breach in hold(contracts).breaches] == [
        f"house breaks on walls.v1.Walls/{method} of walls: no service publishes it" for method in ("Paint", "Show")
    ]


def test_a_method_of_a_released_service_that_is_gone_altogether_breaks_who_knows_it(tmp_path: Path) -> None:
    walls = Contracts(asyncapi=NO_MESSAGES, released_proto=compiled(tmp_path, PUBLISHED))

    assert [breach.what for breach in hold({"walls": walls}).breaches] == ["no service publishes it"] * 2

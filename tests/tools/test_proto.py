"""Protobuf contracts: well made, not broken, enough for who reads them, and the Python of them as they say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from covey.errors import ConfigurationError
from covey.local.system import read_system
from covey.tools.proto import Tree, drifted, generate, trees
from tests.docs.pages import ROOT

SYSTEM = read_system(ROOT)
USER = ROOT / "services/user/contracts"
READ_BY_ORDER = ROOT / "services/order/contracts/reads"


def buf(*arguments: str | Path) -> tuple[int, str]:
    """Run buf; return its status and what it says."""
    program = Path(sys.executable).with_name("buf")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the contract of user, to be changed."""
    return Path(shutil.copytree(USER / "proto", tmp_path / "proto"))


def replace(folder: Path, old: str, new: str) -> None:
    file = folder / "user/v1/user.proto"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_every_contract_is_linted() -> None:
    assert [tree.root for tree in trees(SYSTEM) if not tree.is_read] == [USER / "proto"]


def test_the_contract_of_user_is_clean() -> None:
    assert buf("lint", USER / "proto") == (0, "")


def test_the_contract_of_user_breaks_nobody_who_knows_the_last_one() -> None:
    assert buf("breaking", USER / "proto", "--against", USER / "released") == (0, "")


def test_order_reads_nothing_that_user_does_not_publish() -> None:
    assert buf("breaking", USER / "proto", "--against", READ_BY_ORDER) == (0, "")


def test_a_number_that_is_used_again_is_found(changed: Path) -> None:
    replace(changed, "  string email = 3;", "  int32 email = 3;")

    status, said = buf("breaking", changed, "--against", USER / "released")

    assert status != 0
    assert "email" in said


def test_a_field_that_is_gone_is_found_by_who_reads_it(changed: Path) -> None:
    replace(changed, "  // 1 to 100 characters, not blank.\n  string name = 2;\n", "")

    status, said = buf("breaking", changed, "--against", READ_BY_ORDER)

    assert status != 0
    assert '"2"' in said


def test_numbers_for_ids_and_an_empty_answer_are_found(changed: Path) -> None:
    """What the snippet has: `returns (google.protobuf.Empty)`, and one message for several methods."""
    replace(changed, "returns (DeleteUserResponse)", "returns (google.protobuf.Empty)")
    replace(changed, 'import "google/protobuf/field_mask.proto";', 'import "google/protobuf/empty.proto";')

    status, said = buf("lint", changed)

    assert status != 0
    assert "FieldMask" in said or "DeleteUserResponse" in said


def test_the_python_is_what_the_contracts_say() -> None:
    assert drifted(SYSTEM) == [], "`make proto` writes it anew; check it in"


def test_a_contract_that_cannot_be_compiled_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "contracts/proto").mkdir(parents=True)
    (tmp_path / "contracts/proto/bad.proto").write_text('syntax = "proto3"; message A { B b = 1; }')
    tree = Tree(root=tmp_path / "contracts/proto", folder=tmp_path, module="bad_service")

    with pytest.raises(ConfigurationError, match='"B" is not defined'):
        generate(tree)


def test_two_services_in_one_process_may_read_different_parts_of_one_contract() -> None:
    program = (
        "from user_service.generated.user.v1.user_pb2 import User as Whole\n"
        "from order_service.generated.user.v1.user_pb2 import User as Part\n"
        "whole = Whole(id='1', name='Ada', email='ada@example.org', etag='x')\n"
        "assert Part.FromString(whole.SerializeToString()).name == 'Ada'\n"
        "assert [field.name for field in Part.DESCRIPTOR.fields] == ['id', 'name']\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)

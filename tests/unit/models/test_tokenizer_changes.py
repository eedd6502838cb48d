"""How the tokenizer files of two directories differ, in words."""

import pytest

from pytest_tenpak.models.tokenizer_changes import tokenizer_changes


@pytest.fixture
def pair(tmp_path):
    """Two directories with the same tokenizer; a function that writes a file of the second."""
    folders = tmp_path / "model", tmp_path / "checkpoint"
    for folder in folders:
        folder.mkdir()
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {}}, "post_processor": null}')
        (folder / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    return (*folders, lambda name, text: (folders[1] / name).write_text(text))


def test_tokenizers_that_are_equal_have_no_changes(pair):
    """Order and blanks are no difference that anybody has to hear of."""
    model, checkpoint, write = pair
    write("tokenizer_config.json", '{ "add_bos_token":false }')
    assert tokenizer_changes(model, checkpoint) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "tokenizer_config.json",
            '{"add_bos_token": true}',
            "tokenizer_config.json: add_bos_token false → true",
        ),
        (
            "tokenizer.json",
            '{"model": {"vocab": {}}, "post_processor": {"type": "TemplateProcessing", "single": [1, 2, 3]}}',
            "tokenizer.json: post_processor null → (…)",
        ),
        ("merges.txt", "a b", "merges.txt is only in the checkpoint"),
        ("chat_template.jinja", "", "chat_template.jinja is only in the checkpoint"),
    ],
)
def test_changes_of_tokenizers_are_named_by_file_and_field(pair, name, text, said):
    """With old and new where these are short."""
    model, checkpoint, write = pair
    write(name, text)
    assert tokenizer_changes(model, checkpoint) == [said]

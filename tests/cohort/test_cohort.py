import json

import numpy as np
import pytest

from medray.cohort.cohort import open_cohort
from medray.cohort.commit import Contents, base_of, commit_cohort
from medray.cohort.manifest import QuarantineRow
from medray.errors import InputError, NotFoundError


def test_what_was_committed_is_what_opens(phantom_cohort):
    again = open_cohort(phantom_cohort.root)
    assert again.index == phantom_cohort.index
    assert again.index.counts == {"subjects": 9, "series": 9, "labels": 9, "quarantined": 0}
    assert again.rows == phantom_cohort.rows
    row = again.rows[0]
    assert again.volume(row).shape == again.mask(row).shape
    assert set(np.unique(again.mask(row))) == {0, 1, 4}


def test_the_id_follows_the_content(phantom_cohort, tmp_path):
    from medray.storage.location import locate

    contents = Contents(phantom_cohort.rows, (), phantom_cohort.index.labels)
    root = locate(tmp_path)
    same = commit_cohort(root, contents, {"profile": "other"})
    assert same.index.id == phantom_cohort.index.id
    fewer = commit_cohort(root, Contents(contents.rows[1:], (), contents.labels), {}, base=base_of(root))
    assert fewer.index.id != same.index.id
    assert open_cohort(tmp_path).index.id == fewer.index.id
    assert open_cohort(tmp_path, version=same.index.id).rows == contents.rows


def test_quarantine_is_kept(tmp_path):
    from medray.storage.location import locate

    rows = (QuarantineRow(source="abc", reason="truncated", detail="cut off"),)
    commit_cohort(locate(tmp_path), Contents((), rows, None), {})
    opened = open_cohort(tmp_path)
    assert opened.quarantine == rows
    assert opened.index.fingerprint is None


def test_an_incomplete_or_foreign_cohort_is_refused(tmp_path, phantom_cohort):
    with pytest.raises(NotFoundError, match="no complete cohort"):
        open_cohort(tmp_path)
    (tmp_path / "cohort.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(InputError, match="schema 99"):
        open_cohort(tmp_path)
    with pytest.raises(NotFoundError, match="no version abc"):
        open_cohort(phantom_cohort.root, version="abc")

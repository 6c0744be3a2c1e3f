"""Assertions of the corpus tell as much as those of test modules do."""

import pytest

pytest.register_assert_rewrite("security.corpus")

"""The configuration of the integration tests, for several processes."""

from tests.integration.conftest import config, tiny_base  # noqa: F401  # fixtures

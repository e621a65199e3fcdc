"""Options that name an OIDC provider make its settings, or say which of them cannot be."""

from __future__ import annotations

import pytest

from fedbus.cli.providers import SECRET_BYTES_MAX, oidc_of
from fedbus.errors import ConfigError

ISSUER = "https://login.example"


def test_a_provider_is_made_of_its_options(tmp_path):
    """With the secret as it stands in its file, without the line's end; a group may have a `=` in it."""
    secret = tmp_path / "secret"
    secret.write_text("geheim\n")
    found = oidc_of(ISSUER, "fedbus", secret, "groups", ["cn=ops,ou=x=admin", "lab=viewer"], "")
    assert (found.issuer, found.client_id, found.client_secret) == (ISSUER, "fedbus", "geheim")
    assert found.role_map == {"cn=ops,ou=x": "admin", "lab": "viewer"} and found.title == "login.example"


def test_without_options_there_is_none():
    """And with some of them, but without an issuer, it says so."""
    assert oidc_of("", "", None, "", (), "") is None
    with pytest.raises(ConfigError, match="--oidc-issuer"):
        oidc_of("", "fedbus", None, "", (), "")


@pytest.mark.parametrize("pair", ["lab", "lab=root", "=admin", "lab=", ""])
def test_a_role_that_there_is_not_is_refused(pair):
    """A group means one of the roles, or it is a mistake."""
    with pytest.raises(ConfigError, match="--oidc-role-map"):
        oidc_of(ISSUER, "fedbus", None, "groups", [pair], "")


def test_a_secret_that_cannot_be_is_refused(tmp_path):
    """No file, an empty one, a directory, a whole disk."""
    empty, large = tmp_path / "empty", tmp_path / "large"
    empty.write_text("\n")
    large.write_bytes(b"x" * (SECRET_BYTES_MAX + 1))
    for file in (tmp_path / "none", empty, large, tmp_path):
        with pytest.raises(ConfigError, match="--oidc-client-secret-file"):
            oidc_of(ISSUER, "fedbus", file, "", (), "")


def test_a_second_factor_is_made_of_its_options():
    """Values as they are given; a role that there is not, and a factor without a provider, are refused."""
    found = oidc_of(ISSUER, "fedbus", None, "", (), "", ["gold"], ["mfa", "hwk"], ["admin"])
    assert (found.acr, found.amr, found.factor_roles) == (("gold",), ("mfa", "hwk"), ("admin",))
    with pytest.raises(ConfigError, match="--second-factor"):
        oidc_of(ISSUER, "fedbus", None, "", (), "", [], ["mfa"], ["root"])
    with pytest.raises(ConfigError, match="--oidc-issuer"):
        oidc_of("", "", None, "", (), "", [], ["mfa"])

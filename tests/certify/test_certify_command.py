"""`sparring certify` says what it has proved."""

from click.testing import CliRunner

from sparring.cli import cli

GIVEN = ["certify", "sparring.networks:mlp", "--data", "digits", "--limit", "20"]


def test_what_is_right_without_a_threat_is_certified_and_nothing_within_a_large_one():
    small = CliRunner().invoke(cli, [*GIVEN, "--threat", "linf:0"], catch_exceptions=False).output
    right = small.split(" ")[0] if small[0].isdigit() else small.splitlines()[1].split(" ")[0]
    assert int(right) > 0
    assert f"{right} of them cannot be changed within linf:0: CROWN()" in small
    large = CliRunner().invoke(cli, [*GIVEN, "--threat", "linf:0.9", "--method", "interval"], catch_exceptions=False)
    assert "0 of them cannot be changed within linf:0.9: Interval()" in large.output
    assert "certified accuracy 0.0%, from 0.0% to" in large.output


def test_certificates_are_listed():
    listed = CliRunner().invoke(cli, ["list", "certificates"], catch_exceptions=False).output
    assert "alpha-crown" in listed

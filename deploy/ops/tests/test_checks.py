from deploy.ops.checks import _pins


def test_a_package_that_not_every_python_gets_is_no_pin() -> None:
    text = """\
async-timeout==5.0.1 ; python_full_version < '3.11.3' \\
    --hash=sha256:00
Typing_Extensions==4.15.0 \\
    --hash=sha256:00
celery[redis]==5.7.0
"""
    assert _pins(text) == {"typing-extensions": "4.15.0", "celery": "5.7.0"}

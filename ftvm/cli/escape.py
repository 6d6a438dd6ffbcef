"""The flag `--escape`, which `ftvm run` and `ftvm console` share."""

from typing import Annotated

from cyclopts import Parameter

Escape = Annotated[str, Parameter(name="--escape", env_var="FTVM_ESCAPE")]
"""`--escape ^X`."""

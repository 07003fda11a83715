.PHONY: dev check test quick demo campaign lock

dev:
	scripts/bootstrap test

check:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test:
	./test

quick:
	.venv/bin/python -m pytest -m "not relion and not scipion and not slow and not campaign"

demo:
	./demo

campaign:
	.tools/bin/uv sync --frozen --quiet --extra dev --extra campaign
	.venv/bin/python -m pytest -m campaign
	.venv/bin/python -m pytest -m "hypothesis and not campaign" --hypothesis-profile=searching

lock:
	.tools/bin/uv lock
	.tools/bin/uv export --frozen --quiet --no-emit-project --extra postgres --format requirements-txt -o requirements.lock

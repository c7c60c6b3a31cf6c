"""Lets ``python -m ese_deploy.cli`` stand for ``ese-deploy``."""

from ese_deploy.cli import run

if __name__ == "__main__":
    run()

"""``python -m ese_deploy.cli`` is ``ese-deploy``."""

from ese_deploy.cli import run

if __name__ == "__main__":
    run()

"`python -m fastai_deploy` is `fastai-deploy`."
from fastai_deploy.serving.cli import main
if __name__ == '__main__': raise SystemExit(main())

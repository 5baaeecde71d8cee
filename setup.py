"The package's metadata, read from settings.ini (the file that nbdev reads too)."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
extras = {o: cfg[f'{o}_requirements'].split() for o in ('export', 'demo', 'serve', 'triton', 'ray', 'dev')}
extras['dev'] = sum(extras.values(), [])   # everything to work on it
apps = []   # files of the programs: all but what their .gitignore says is made there
for app in sorted(o.parent for o in (here/'apps').glob('*/.gitignore')):
    made = {*(app/'.gitignore').read_text(encoding='utf-8').replace('/', '').split()}
    files = [o.relative_to(here/'apps') for o in sorted(app.rglob('*')) if o.is_file()]
    apps += [o.as_posix() for o in files if not made & {*o.parts}]
statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable']

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8') if (here/'README.md').exists() else '',
    long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    keywords=cfg['keywords'].split(), license='Apache-2.0', license_files=['LICENSE'],
    classifiers=[f'Development Status :: {statuses[int(cfg["status"]) - 1]}', 'Intended Audience :: Developers',
                 'Natural Language :: English', 'Programming Language :: Python :: 3',
                 *(f'Programming Language :: Python :: 3.{o}' for o in range(10, 15))],
    packages=[*find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']), 'fastai_deploy._apps'],
    package_dir={'fastai_deploy._apps': 'apps'},   # programs in other languages, to be copied
    package_data={cfg['lib_path']: ['*.json'], 'fastai_deploy._apps': apps}, include_package_data=False, zip_safe=False,
    python_requires=f'>={cfg["min_python"]}',
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f'{cfg["lib_path"]}={cfg["lib_path"]}._modidx:d']},
)

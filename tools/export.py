"Notebooks -> modules (`nbdev_export`), notebooks cleaned (`nbdev_clean`), README.md."
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
from env import ROOT
from readme import render

nbdev_export.__wrapped__()
nbdev_clean.__wrapped__()
(ROOT/'README.md').write_text(render(), encoding='utf-8', newline='\n')
print('exported, cleaned, wrote README.md')

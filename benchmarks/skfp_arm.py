"""Applicability domains of scikit-fingerprints, for ``benchmarks/domain.py``, in an environment of their own.

    python skfp_arm.py ARRAYS.npz

ARRAYS holds ``<feature>/train`` and ``<feature>/<set>``, standardised features of molecules. Prints as JSON, for each
method and feature, the share of each set that is flagged, with the method's own thresholds. Methods on nearest
neighbours are not here, since they call Python for every pair of molecules; ``domain.py`` has the same rule as a
candidate of its own. The convex hull (a linear programme per molecule) and methods for classifiers are left out, too.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib import metadata

import numpy as np
from skfp import applicability_domain

METHODS = {
    "bounding box": ("BoundingBoxADChecker", {}),
    "bounding box, three sigma": (
        "BoundingBoxADChecker",
        {"percentile_lower": "three_sigma", "percentile_upper": "three_sigma"},
    ),
    "PCA bounding box": ("PCABoundingBoxADChecker", {}),
    "distance to centroid": ("DistanceToCentroidADChecker", {}),
    "Hotelling T2": ("HotellingT2TestADChecker", {}),
    "leverage": ("LeverageADChecker", {}),
    "TOPKAT": ("TOPKATADChecker", {}),
}


def main() -> None:
    warnings.filterwarnings("ignore")
    arrays = np.load(sys.argv[1])
    features = sorted({name.split("/")[0] for name in arrays.files})
    found: dict[str, object] = {"scikit-fingerprints": metadata.version("scikit-fingerprints")}
    for feature in features:
        sets = {name.split("/")[1]: arrays[name] for name in arrays.files if name.startswith(f"{feature}/")}
        train = sets.pop("train")
        for name, (method, options) in METHODS.items():
            started = time.process_time()
            checker = getattr(applicability_domain, method)(**options).fit(train)
            shares = {one: round(float(1 - np.mean(checker.predict(values))), 4) for one, values in sets.items()}
            found[f"{name}, {feature}"] = {**shares, "seconds": round(time.process_time() - started, 2)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

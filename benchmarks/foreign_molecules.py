"""Molecules that no model of drug-like molecules was meant for: small ones, peptides, metal compounds and salts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
from rdkit import Chem, rdBase

from moltune import datasets

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SHORTEST, LONGEST = 2, 15

CATIONS = {
    "sodium": "[Na+]",
    "potassium": "[K+]",
    "lithium": "[Li+]",
    "caesium": "[Cs+]",
    "ammonium": "[NH4+]",
    "tetramethylammonium": "C[N+](C)(C)C",
    "tetrabutylammonium": "CCCC[N+](CCCC)(CCCC)CCCC",
    "benzyltriethylammonium": "CC[N+](CC)(CC)Cc1ccccc1",
    "cetyltrimethylammonium": "CCCCCCCCCCCCCCCC[N+](C)(C)C",
    "choline": "C[N+](C)(C)CCO",
    "acetylcholine": "CC(=O)OCC[N+](C)(C)C",
    "1-butyl-3-methylimidazolium": "CCCCn1cc[n+](C)c1",
    "1-ethyl-3-methylimidazolium": "CCn1cc[n+](C)c1",
    "N-butylpyridinium": "CCCC[n+]1ccccc1",
    "N-butyl-N-methylpyrrolidinium": "CCCC[N+]1(C)CCCC1",
    "tetraphenylphosphonium": "c1ccc([P+](c2ccccc2)(c2ccccc2)c2ccccc2)cc1",
    "guanidinium": "NC(N)=[NH2+]",
    "trimethylsulfonium": "C[S+](C)C",
}
ANIONS = {
    "chloride": "[Cl-]",
    "bromide": "[Br-]",
    "iodide": "[I-]",
    "nitrate": "[O-][N+](=O)[O-]",
    "acetate": "CC(=O)[O-]",
    "benzoate": "O=C([O-])c1ccccc1",
    "trifluoroacetate": "O=C([O-])C(F)(F)F",
    "tosylate": "Cc1ccc(S(=O)(=O)[O-])cc1",
    "mesylate": "CS(=O)(=O)[O-]",
    "tetrafluoroborate": "F[B-](F)(F)F",
    "hexafluorophosphate": "F[P-](F)(F)(F)(F)F",
    "bistriflimide": "O=S(=O)([N-]S(=O)(=O)C(F)(F)F)C(F)(F)F",
}
BASES = {
    "diphenhydramine": "CN(C)CCOC(c1ccccc1)c1ccccc1",
    "propranolol": "CC(C)NCC(O)COc1cccc2ccccc12",
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "imipramine": "CN(C)CCCN1c2ccccc2CCc2ccccc21",
    "fluoxetine": "CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1",
    "sertraline": "CN[C@H]1CC[C@@H](c2ccc(Cl)c(Cl)c2)c2ccccc21",
    "metformin": "CN(C)C(=N)NC(N)=N",
    "haloperidol": "O=C(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1",
    "verapamil": "COc1ccc(CCN(C)CCCC(C#N)(C(C)C)c2ccc(OC)c(OC)c2)cc1OC",
    "amlodipine": "CCOC(=O)C1=C(COCCN)NC(C)=C(C(=O)OC)C1c1ccccc1Cl",
    "salbutamol": "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1",
    "bupropion": "CC(NC(C)(C)C)C(=O)c1cccc(Cl)c1",
    "terbinafine": "CN(C/C=C/C#CC(C)(C)C)Cc1cccc2ccccc12",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "ephedrine": "CN[C@@H](C)[C@H](O)c1ccccc1",
    "procaine": "CCN(CC)CCOC(=O)c1ccc(N)cc1",
}
ACIDS_OF_BASES = {
    "hydrochloride": "Cl",
    "hydrobromide": "Br",
    "mesylate": "CS(=O)(=O)O",
    "maleate": "O=C(O)/C=C\\C(=O)O",
    "fumarate": "O=C(O)/C=C/C(=O)O",
    "besylate": "O=S(=O)(O)c1ccccc1",
}
ACIDS = {
    "ibuprofen": "CC(C)Cc1ccc(C(C)C(=O)[O-])cc1",
    "naproxen": "COc1ccc2cc([C@H](C)C(=O)[O-])ccc2c1",
    "diclofenac": "O=C([O-])Cc1ccccc1Nc1c(Cl)cccc1Cl",
    "valproic acid": "CCCC(CCC)C(=O)[O-]",
    "warfarin": "CC(=O)CC(c1ccccc1)c1c([O-])c2ccccc2oc1=O",
    "benzylpenicillin": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)[O-]",
    "phenytoin": "O=C1[N-]C(=O)C(c2ccccc2)(c2ccccc2)N1",
    "sulfadiazine": "Nc1ccc(S(=O)(=O)[N-]c2ncccn2)cc1",
    "salicylic acid": "O=C([O-])c1ccccc1O",
    "furosemide": "NS(=O)(=O)c1cc(C(=O)[O-])c(NCc2ccco2)cc1Cl",
}
GROUPS = {
    "methyl": "C",
    "ethyl": "CC",
    "propyl": "CCC",
    "butyl": "CCCC",
    "isopropyl": "CC(C)",
    "phenyl": "c1ccccc1",
    "benzyl": "C(c1ccccc1)",
    "vinyl": "C(=C)",
}
AMINES = ["N", "NC", "NC(C)C", "NC1CCCCC1", "n1ccccc1", "NCc1ccccc1"]
OTHER_METAL = [
    "N1CCN->[Pt]<-1(Cl)Cl",
    "N->[Pt]1(<-N)OC(=O)C2(CCC2)C(=O)O1",
    "N1C2CCCCC2N->[Pt]<-13OC(=O)C(=O)O3",
    "N->[Pt](Cl)(Cl)(Cl)(Cl)<-N",
    "Cl[Au]<-P(c1ccccc1)(c1ccccc1)c1ccccc1",
    "Cl[Au]<-P(CC)(CC)CC",
    "CC(=O)OCC1OC(S[Au]<-P(CC)(CC)CC)C(OC(C)=O)C(OC(C)=O)C1OC(C)=O",
    "Cl[Pd](Cl)(<-P(c1ccccc1)(c1ccccc1)c1ccccc1)<-P(c1ccccc1)(c1ccccc1)c1ccccc1",
    "Cl[Ni](Cl)(<-P(c1ccccc1)(c1ccccc1)c1ccccc1)<-P(c1ccccc1)(c1ccccc1)c1ccccc1",
    "C[Al](C)C",
    "CC[Al](CC)CC",
    "CC(C)C[Al](CC(C)C)CC(C)C",
    "CC[Al](CC)Cl",
    "CC(C)C[AlH]CC(C)C",
    "CC(C)O[Ti](OC(C)C)(OC(C)C)OC(C)C",
    "CCO[Ti](OCC)(OCC)OCC",
    "CC(C)O[Al](OC(C)C)OC(C)C",
    "C[Te]C",
    "c1ccccc1[Bi](c1ccccc1)c1ccccc1",
    "c1ccccc1[Sb](c1ccccc1)c1ccccc1",
    "CC[Hg]Sc1ccccc1C(=O)O",
    "COC(=O)[Hg]C",
    "CC[Zn]CC",
    "C[Zn]C",
    "C[Cd]C",
    "C[Tl](C)C",
    "C[Ga](C)C",
    "C[In](C)C",
]
CYCLOPENTADIENYL = "[cH-]1cccc1"
SANDWICHES = {"Fe": 2, "Co": 2, "Ni": 2, "Ru": 2, "V": 2, "Cr": 2, "Mn": 2, "Mg": 2}
ACETYLACETONATES = {
    **{"Fe": 3, "Co": 3, "Cr": 3, "Al": 3, "Mn": 3, "V": 3, "Ru": 3, "Ga": 3, "In": 3},
    **{"Cu": 2, "Ni": 2, "Zn": 2, "Pd": 2, "Pt": 2, "Mg": 2, "Co+": 2, "Ba": 2, "Zr": 4},
}


def small_molecules(count: int, rng: np.random.Generator) -> list[str]:
    """Of FreeSolv: solvents, fragments and gases."""
    return _some(datasets.load("freesolv")["smiles"].tolist(), count, rng)


def peptides(count: int, rng: np.random.Generator) -> list[str]:
    """Linear peptides of random sequence, 2 to 15 residues."""
    lengths = rng.integers(SHORTEST, LONGEST + 1, count)
    sequences = ["".join(rng.choice(list(AMINO_ACIDS), length)) for length in lengths]
    return [Chem.MolToSmiles(Chem.MolFromSequence(sequence)) for sequence in sequences]


def salts(count: int, rng: np.random.Generator) -> list[str]:
    """Real ions in pairs: inorganic salts, ionic liquids, and drugs with acids and bases that they are sold with."""
    found = [f"{cation}.{anion}" for cation, anion in product(CATIONS.values(), ANIONS.values())]
    found += [f"{base}.{acid}" for base, acid in product(BASES.values(), ACIDS_OF_BASES.values())]
    found += [f"{cation}.{acid}" for cation, acid in product(["[Na+]", "[K+]", "[Li+]"], ACIDS.values())]
    return _some(found, count, rng)


def metal_compounds(count: int, rng: np.random.Generator) -> list[str]:
    """Organometallics, amine complexes, metallocenes, acetylacetonates and alkoxides."""
    found = list(OTHER_METAL)
    # A bonded group: its SMILES starts at the atom that the metal holds.
    for group in GROUPS.values():
        for metal in ("Sn", "Ge", "Pb"):
            found += [f"{group}[{metal}]({group})({group}){rest}" for rest in (group, "Cl", "OC(C)=O")]
        found += [f"{group}[Hg]{rest}" for rest in (group, "Cl", "Br", "OC(C)=O")]
        found += [f"{group}[Mg]{halide}" for halide in ("Cl", "Br", "I")]
        found += [f"{group}[Li]", f"{group}[Zn]{group}"]
    for metal, amine, halide in product(("Pt", "Pd"), AMINES, ("Cl", "Br", "I")):
        # Bonds to the metal last: its own SMILES starts with the two amines as branches.
        found.append(f"[{metal}](<-{amine})(<-{amine})({halide}){halide}")
    for metal, charge in SANDWICHES.items():
        found.append(f"{CYCLOPENTADIENYL}.{CYCLOPENTADIENYL}.[{metal}+{charge}]")
    for metal, charge in ACETYLACETONATES.items():
        found.append(".".join(["CC(=O)/C=C(/C)[O-]"] * charge + [f"[{metal.rstrip('+')}+{charge}]"]))
    return _some(found, count, rng)


FOREIGN: dict[str, Callable[[int, np.random.Generator], list[str]]] = {
    "small molecules": small_molecules,
    "peptides": peptides,
    "metal compounds": metal_compounds,
    "salts": salts,
}


def _some(smiles: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    """So many different molecules at random, as canonical SMILES; one that RDKit refuses is an error of the lists."""
    with rdBase.BlockLogs():
        mols = {text: Chem.MolFromSmiles(text) for text in smiles}
    wrong = [text for text, mol in mols.items() if mol is None]
    if wrong:
        raise ValueError(f"not valid: {wrong}")
    unique = sorted({Chem.MolToSmiles(mol) for mol in mols.values()})
    return [unique[i] for i in sorted(rng.choice(len(unique), min(count, len(unique)), replace=False))]

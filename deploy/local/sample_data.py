"""The people, workflow instances and projects of the local fleet: who they belong to is known to the development
auth service, and what happens to them is told by the sample publisher."""

USERS = {
    "1": {"_id": "1", "sub": 1, "username": "alice", "fullname": "Alice Archer", "email": "alice@example.org", "gids": [59]},
    "2": {"_id": "2", "sub": 2, "username": "bob", "fullname": "Bob Baker", "email": "bob@example.org", "gids": [60]},
}

# Instance id -> whose it is, its group and its project.
INSTANCES = {
    "57912b0fef01633d720918cf": {"user_id": "1", "group_id": 59, "project": "5afc2c8de68fc50028e90820",
                                 "name": "diffusion import"},
    "5dd6e9c4a1b2c33d7209a001": {"user_id": "1", "group_id": 59, "project": "5afc2c8de68fc50028e90820",
                                 "name": "white matter tracts"},
    "5e1b7f30a1b2c33d7209b002": {"user_id": "2", "group_id": 60, "project": "5c7d9a1f2b3c4d5e6f708192",
                                 "name": "cortical thickness"},
}

# Project id -> its members.
PROJECTS = {
    "5afc2c8de68fc50028e90820": ["1"],
    "5c7d9a1f2b3c4d5e6f708192": ["1", "2"],
}

SERVICES = [
    ("soichih/bl-product-nifti", "import"),
    ("brainlife/app-dtiinit", "preprocess"),
    ("brainlife/app-tractseg", "tractography"),
    ("brainlife/app-freesurfer", "segmentation"),
]

EXCHANGES = ["wf", "wf.task", "wf.instance", "warehouse", "warehouse.dataset", "public"]

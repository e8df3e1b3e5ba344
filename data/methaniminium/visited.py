"""Geometries that dynamics visits, labelled as those of `generate.py`; the ground state's minimum and Hessian.

    python visited.py hot hot.npz                          # GFN2-xTB dynamics at 1500 to 8000 K (tblite, ase)
    python visited.py frames run.npz frames.npz 120        # of hopping trajectories: those farthest from what is known
    python visited.py label hot.npz labelled.npz           # SA3-CASSCF(4,3)/6-31G* (PySCF), 7 to 20 s each
    python visited.py join visited.npz labelled.npz ...    # converged ones of all files
    python visited.py hessian hessian.npz

`run.npz` holds R (records, trajectories, 6, 3) in bohr and first (trajectories,), the record at which a trajectory is lost, -1 for
never. `generate.py` must have been run here: its orbitals are the first guesses.
"""
import os, sys
import numpy as np

A0 = 0.529177210903
FILE = 'ch2nh2_sa3cas43_631gs.npz'

def distances(R):
    return np.linalg.norm(R[..., :, None, :] - R[..., None, :, :], axis=-1) * A0

def hot(out):
    from ase import Atoms, units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
    from tblite.ase import TBLite
    z, rng, found = np.load(FILE), np.random.default_rng(7), []
    twisted = z['R'][np.flatnonzero(z['tag'] == 'torsion')[-1]]
    for T in (1500, 3000, 5000, 8000):
        for R in 4 * [z['R'][0], z['R'][0], twisted, np.load('meci01.npz')['R']]:
            atoms = Atoms('CNHHHH', R * A0); atoms.calc = TBLite(method='GFN2-xTB', charge=1, verbosity=0)
            MaxwellBoltzmannDistribution(atoms, temperature_K=T, rng=rng); Stationary(atoms); ZeroRotation(atoms)
            dynamics = Langevin(atoms, 0.4 * units.fs, temperature_K=T, friction=0.01 / units.fs, rng=rng)
            for _ in range(6):
                dynamics.run(50); d = distances(atoms.positions / A0)
                if d[0, 1] > 2.0 or d[0, 2:4].max() > 1.9 or d[1, 4:6].max() > 1.75: break
                found.append(atoms.positions / A0)
    np.savez(out, R=np.array(found)[rng.permutation(len(found))], tag='hot xtb')

def fingerprint(R):
    E = np.exp(-distances(R) / 1.5)
    crossed = np.stack([E[:, a, b] for a, b in ((2, 4), (2, 5), (3, 4), (3, 5))], 1)
    return np.concatenate([3 * E[:, 0, 1:2], np.sort(E[:, 0, 2:4], 1), np.sort(E[:, 1, 4:], 1), np.sort(E[:, 0, 4:], 1),
                           np.sort(E[:, 1, 2:4], 1), np.sort(crossed, 1), E[:, 2, 3:4], E[:, 4, 5:6]], 1)

def frames(run, out, number):
    z = np.load(run); R, first = z['R'], z['first']
    c = np.array([R[n, k] for k in range(R.shape[1]) for n in range(2, first[k] if first[k] > 0 else len(R), 2 if first[k] > 0 else 6)])
    d = distances(c); nearest = d[:, *np.triu_indices(6, 1)].min(1)
    c = c[(nearest > .75) & (d[:, 0, 1] < 2.6) & (d[:, 0, 2:4].max(1) < 2.6) & (d[:, 1, 4:].max(1) < 2.4)]
    known = np.concatenate([np.load(f)['R'] for f in (FILE, 'visited.npz') if os.path.exists(f)])
    F, K, taken = fingerprint(c), fingerprint(known), []
    left = np.min(np.linalg.norm(F[:, None] - K[None], axis=-1), axis=1)
    for _ in range(int(number)):
        taken.append(int(left.argmax())); left = np.minimum(left, np.linalg.norm(F - F[taken[-1]], axis=1))
    np.savez(out, R=c[np.random.default_rng(1).permutation(taken)], tag='trajectory')

def onto(R, S):
    """R turned onto S as well as it can be, and the distance that is left."""
    a, b = R - R.mean(0), S - S.mean(0)
    U, _, V = np.linalg.svd(a.T @ b); Q = U @ np.diag([1, 1, np.sign(np.linalg.det(U @ V))]) @ V
    return a @ Q + S.mean(0), np.linalg.norm(a @ Q - b)

def label(source, out):
    from sacas import everything
    z, given = np.load(FILE, allow_pickle=True), np.load(source)
    pool = [(R, mo) for R, mo, good in zip(z['R'], z['mo'], z['converged']) if good]
    twisted, found = pool[6], []
    for n, R in enumerate(given['R']):
        near = min(pool, key=lambda p: onto(R, p[0])[1]); R = onto(R, near[0])[0]  # the orientation is free: that of the guess
        try: o = everything(R, [near, twisted])
        except Exception as error: print('geometry', n, 'failed:', repr(error)[:80]); continue
        o.pop('mc'); found.append(o)
        if o['conv']: pool.append((o['R'], o['mo']))
        array = lambda name: np.array([r[name] for r in found])
        np.savez(out, R=array('R'), E=array('E'), G=array('G'), d_etf=-array('nac_etf'), mu=array('mu'), converged=array('conv'),
                 guess_spread=array('spread'), tag=np.array([str(given['tag'])] * len(found)))

def join(out, *parts):
    z = [np.load(p) for p in parts]
    # Where two guesses lead to solutions that lie far apart, the lower one need not join the others smoothly.
    good = [p['converged'] & (p['guess_spread'] < 2e-2) for p in z]
    arrays = {name: np.concatenate([p[name][g] for p, g in zip(z, good)]) for name in ('R', 'E', 'G', 'd_etf', 'mu', 'converged', 'guess_spread', 'tag')}
    np.savez_compressed(out, Z=np.array([6, 7, 1, 1, 1, 1]), charge=1, pairs=np.array([(0, 1), (0, 2), (1, 2)]), **arrays)

def hessian(out, h=5e-3):
    from scipy.optimize import minimize
    from sacas import everything
    z = np.load(FILE, allow_pickle=True); guess = (z['R'][0], z['mo'][0])
    def f(x):
        o = everything(x.reshape(6, 3), [guess], states=[0], pairs=[]); return float(o['E'][0]), o['G'][0].ravel()
    R = minimize(f, z['R'][0].ravel(), jac=True, method='BFGS', options=dict(gtol=2e-6)).x
    H = np.array([(f(R + d)[1] - f(R - d)[1]) / (2 * h) for d in h * np.eye(18)])
    np.savez(out, numbers=np.array([6, 7, 1, 1, 1, 1]), positions=R.reshape(6, 3), hessian=.5 * (H + H.T), units='hartree-bohr')

if __name__ == '__main__':
    dict(hot=hot, frames=frames, label=label, join=join, hessian=hessian)[sys.argv[1]](*sys.argv[2:])

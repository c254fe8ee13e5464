//! The store on disks that are full, that break, and whose machine stops at any moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::{AddForward, PeerKey, PeerName};
use punch_state::{Peer, State, forward, peer, rights};

use super::simulated::{Random, SimulatedDisk};
use super::writer::Standing;
use super::{Changes, Saved, Stamps, Store};

/// Runs of [`a_start_finds_the_old_state_or_the_new_one_whatever_has_happened`].
const RUNS: u64 = 10_000;
/// Threads that share them.
const THREADS: u64 = 4;

/// A state with two peers, and nothing that they may use. Plain WireGuard peers: reading their keys costs no arithmetic.
fn two_peers() -> State {
    let peer = |number: u8| {
        Peer::new(PeerKey::Wireguard {
            key: BASE64_STANDARD.encode([number; 32]),
            endpoint: None,
            address: [10, 0, 0, number].into(),
            preshared: None,
        })
    };
    State {
        peers: [1, 2].map(|number| (name(number), peer(number))).into(),
        ..State::default()
    }
}

fn name(number: u8) -> PeerName {
    format!("peer{number}").parse().unwrap()
}

fn stamps() -> Changes {
    Changes {
        stamps: Some(Stamps::new()),
        ..Changes::default()
    }
}

fn share(port: usize) -> AddForward {
    AddForward {
        protocol: "tcp".parse().unwrap(),
        ports: port.to_string().parse().unwrap(),
        target: None,
        peers: Vec::new(),
    }
}

/// The state with one thing given or taken.
fn changed(state: &State, random: &mut Random) -> State {
    let who = name(1 + random.below(2) as u8);
    let ask = share(1 + random.below(4));
    let key = forward::key_of(&ask);
    let changed = match random.below(4) {
        0 => peer::set_host(state, &who, random.one_in(2)),
        1 => peer::set_up(state, &who, random.one_in(2), Some(random.one_in(2))),
        _ => forward::remove(state, key).or_else(|_| forward::add(state, ask)),
    };
    changed.unwrap()
}

/// How often something has happened in all runs: a test that meets none of it would prove nothing.
#[derive(Default)]
struct Counts {
    saved: AtomicUsize,
    unsaved: AtomicUsize,
    refused: AtomicUsize,
    /// A start found something else than what was in force.
    older: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A machine in the run of one seed.
struct Run<'a> {
    random: Random,
    disk: SimulatedDisk,
    with_identity: bool,
    identity: Option<[u8; 32]>,
    /// What the next start may find.
    possible: Vec<State>,
    counts: &'a Counts,
}

impl Run<'_> {
    /// Starts punchd, which finds what it may find, and has it change things until it is gone or told to stop.
    fn live(&mut self, template: &State) {
        self.disk.set_faults([0, 40, 8][self.random.below(3)]);
        let mut store = Store::of(self.disk.clone(), None);
        self.disk.set_faults(0);
        let mut force = self.find(&store);
        let mut unsaved = store.take_trouble().is_some();
        if !unsaved {
            self.possible = vec![force.clone()];
        }
        if force.peers.is_empty() {
            force = template.clone();
        }
        self.disk.set_faults([0, 40, 8][self.random.below(3)]);
        if self.random.one_in(2) {
            self.disk.kill_after(self.random.below(100));
        }
        for _ in 0..1 + self.random.below(4) {
            match self.random.below(8) {
                0 => self.disk.fill(),
                1 => self.disk.empty(),
                2 => drop(store.save_history(&stamps())),
                _ => {}
            }
            let next = match unsaved && self.random.one_in(2) {
                true => force.clone(),
                false => changed(&force, &mut self.random),
            };
            if self
                .save(&mut store, &mut force, next, &mut unsaved)
                .is_none()
            {
                return;
            }
        }
        // A disk that works again gets what it has missed.
        if unsaved && self.random.one_in(2) {
            self.disk.set_faults(0);
            self.disk.empty();
            let again = force.clone();
            if self
                .save(&mut store, &mut force, again, &mut unsaved)
                .is_some()
            {
                assert!(!unsaved, "a disk without a fault has refused it");
            }
        }
    }

    /// Reads what a start reads.
    fn find(&mut self, store: &Store<SimulatedDisk>) -> State {
        let found = store.load().expect("neither the old state nor the new one");
        assert!(self.possible.contains(&found), "{found:?}");
        // Its arithmetic takes longer than all the rest.
        if self.with_identity
            && let Ok(identity) = store.identity()
        {
            let key = identity.id().x25519();
            assert_eq!(*self.identity.get_or_insert(key), key);
        }
        found
    }

    /// Brings a state into force as the controller does; `None` when punchd is gone.
    fn save(
        &mut self,
        store: &mut Store<SimulatedDisk>,
        force: &mut State,
        next: State,
        unsaved: &mut bool,
    ) -> Option<()> {
        let takes = !rights::gives(force, &next);
        let outcome = store.save(&next, takes);
        if self.disk.is_dead() {
            self.possible.push(next);
            return None;
        }
        match Standing::of(takes, outcome) {
            Standing::Saved => {
                count(&self.counts.saved);
                self.possible = vec![next.clone()];
                *unsaved = false;
                *force = next;
            }
            Standing::Unsaved(_) => {
                count(&self.counts.unsaved);
                self.possible.push(next.clone());
                *unsaved = true;
                *force = next;
            }
            Standing::Refused(_) => count(&self.counts.refused),
        }
        Some(())
    }
}

/// The run of one seed: two lives, each of which may end in a power cut.
fn run(seed: u64, template: &State, counts: &Counts) {
    let mut run = Run {
        random: Random::new(seed),
        disk: SimulatedDisk::new(!seed),
        with_identity: seed.is_multiple_of(16),
        identity: None,
        possible: vec![State::default()],
        counts,
    };
    for _ in 0..2 {
        run.live(template);
        let last = run.possible.last().cloned();
        if run.random.one_in(2) {
            run.disk.cut_power();
        }
        run.disk = run.disk.next_life();
        run.disk.set_faults(0);
        let found = Store::reading(run.disk.clone()).load();
        let found = found.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert!(run.possible.contains(&found), "seed {seed}: {found:?}");
        if Some(found) != last {
            count(&counts.older);
        }
    }
}

#[test]
fn a_start_finds_the_old_state_or_the_new_one_whatever_has_happened() {
    let (template, counts) = (&two_peers(), &Counts::default());
    thread::scope(|scope| {
        for first in 0..THREADS {
            let seeds = (first..RUNS).step_by(THREADS as usize);
            scope.spawn(move || seeds.for_each(|seed| run(seed, template, counts)));
        }
    });
    let Counts {
        saved,
        unsaved,
        refused,
        older,
    } = counts;
    let met = [saved, unsaved, refused, older].map(|count| count.load(Ordering::Relaxed));
    assert!(met.iter().all(|count| *count > 1000), "{met:?}");
}

/// A store with two peers that may reach this whole machine, and a disk on which nobody finds room.
fn on_a_full_disk() -> (SimulatedDisk, Store<SimulatedDisk>, State) {
    let disk = SimulatedDisk::new(1);
    let mut store = Store::of(disk.clone(), None);
    store.identity().unwrap();
    let mut state = two_peers();
    for number in [1, 2] {
        state = peer::set_host(&state, &name(number), true).unwrap();
    }
    assert!(matches!(store.save(&state, false), Ok(Saved::Surely)));
    disk.fill();
    (disk, store, state)
}

#[test]
fn a_full_disk_still_takes_what_takes_a_right_away_or_does_not_grow() {
    let (disk, mut store, mut state) = on_a_full_disk();
    for round in 0..20 {
        state = peer::set_host(&state, &name(1), round % 2 == 1).unwrap();
        let saved = store.save(&state, round % 2 == 0);
        assert!(matches!(saved, Ok(Saved::Surely)), "{round}: {saved:?}");
        disk.cut_power();
        let mut next = Store::of(disk.next_life(), None);
        assert_eq!(next.load().unwrap(), state);
        // This one lives on: the disk is its own all the time.
        let (again, trouble) = (disk.next_life(), next.take_trouble());
        assert!(trouble.is_none(), "{trouble:?}");
        store = Store::of(again, None);
    }
}

#[test]
fn a_full_disk_refuses_what_grows_and_keeps_its_reserve_for_what_takes_away() {
    let (disk, mut store, mut state) = on_a_full_disk();
    let fits = state.clone();
    for port in 1..200 {
        state = forward::add(&state, share(port)).unwrap();
    }
    let refused = store.save(&state, false).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(store.load().unwrap(), fits);
    let less = peer::set_host(&fits, &name(1), false).unwrap();
    assert!(matches!(store.save(&less, true), Ok(Saved::Surely)));
    assert_eq!(store.load().unwrap(), less);
    disk.empty();
    assert!(matches!(store.save(&state, false), Ok(Saved::Surely)));
    // The reserve has grown with the state.
    disk.fill();
    for port in 1..200 {
        state = forward::remove(&state, forward::key_of(&share(port))).unwrap();
        assert!(
            matches!(store.save(&state, true), Ok(Saved::Surely)),
            "{port}"
        );
    }
}

#[test]
fn an_identity_is_not_made_beside_a_state_of_another_one() {
    let (disk, store, state) = on_a_full_disk();
    disk.empty();
    store.files.remove(super::IDENTITY).unwrap();
    let error = format!("{:#}", store.identity().err().unwrap());
    for part in [
        "identity.key is missing",
        "state.json has 2 peers",
        "restore the file from a backup",
        "touch new-identity",
    ] {
        assert!(error.contains(part), "{part:?}: {error}");
    }
    assert_eq!(store.load().unwrap(), state);
    assert!(store.read_identity().unwrap().is_none(), "none was made");

    store.files.prepare(super::NEW_IDENTITY, b"").unwrap();
    let made = store.identity().unwrap();
    assert_eq!(store.identity().unwrap().id(), made.id());
    store.files.remove(super::IDENTITY).unwrap();
    assert!(store.identity().is_err(), "it was wanted once");
}

#[test]
fn what_is_in_place_and_not_synced_is_told_and_not_called_refused() {
    // Of each operation of a save one run has the disk break there.
    let mut unsure = 0;
    for seed in 0..500 {
        let disk = SimulatedDisk::new(seed);
        let mut store = Store::of(disk.clone(), None);
        let state = two_peers();
        disk.set_faults(6);
        let saved = store.save(&state, false);
        disk.set_faults(0);
        let found = store.load().unwrap();
        match saved {
            Ok(Saved::Surely) => assert_eq!(found, state),
            Ok(Saved::Unsure(_)) => unsure += 1,
            Err(error) => assert_eq!(found, State::default(), "seed {seed}: {error}"),
        }
    }
    assert!(unsure > 20, "{unsure}");
}

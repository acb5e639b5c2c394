//! `porin keys`: who may say what. Makes keys, shows them, and exchanges one for another.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use porin_core::{
    time::Unix,
    trust::{self, Key, Publisher, Role, Root, Verified, documents::is_name},
};
use porind::wall_clock;
use ring::signature::Ed25519KeyPair;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    keys::{KeyFolder, RoleName, create_pair, new_passphrase, public, sign, write_new},
};

/// A root counts for so long. After that nothing new counts, and what runs goes on.
const ROOT_DAYS: u64 = 5 * 365;

const DAY_US: u64 = 86_400_000_000;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key for each role, and a root that names them
    Init(Init),
    /// Show the valid keys, and which are here
    Show(Show),
    /// Make a new key for a role, and a root that replaces the old one
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Folder {
    /// Folder with the keys [default: `porin/keys` in the folder of the user's configuration]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    #[command(flatten)]
    folder: Folder,
    /// The gateways that they are for: a name that never changes
    #[arg(long, default_value = "home")]
    fleet: String,
    /// Names of cells begin with this and a slash [default: they may have any]
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Protect the key files with a passphrase, typed or from PORIN_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    folder: Folder,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// Role of the key
    role: RoleName,
    #[command(flatten)]
    folder: Folder,
    /// Encrypt the new key file with a passphrase, typed or from PORIN_PASSPHRASE [default: as the old one, or the root's]
    #[arg(long)]
    passphrase: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Init(init) => make(init),
        Command::Show(show) => {
            let folder = KeyFolder::at(show.folder.keys.as_deref())?;
            let root = folder.root()?;
            print(&folder, &root, show.json)
        }
        Command::Rotate(arguments) => rotate(arguments),
    }
}

fn make(arguments: &Init) -> anyhow::Result<()> {
    let Init { folder, fleet, prefix, passphrase, json } = arguments;
    for (what, name) in [("--fleet", fleet), ("--prefix", prefix)] {
        if !(is_name(name) || what == "--prefix" && name.is_empty()) {
            return Err(Failure {
                exit: Exit::Usage,
                message: format!("{what} `{name}`: letters, digits and -_./, a letter or digit first, 63 at most"),
                hint: None,
            }
            .into());
        }
    }
    let folder = KeyFolder::at(folder.keys.as_deref())?;
    if fs::read_dir(folder.path()).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!("{} is not empty; nothing was made", folder.path().display()),
            hint: Some(
                "`porin keys show` lists them, `porin keys rotate` replaces a key; --keys names another folder".into(),
            ),
        }
        .into());
    }
    let passphrase = new_passphrase(*passphrase)?;
    let around = folder.path().parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(around).with_context(|| format!("cannot make the folder {}", around.display()))?;
    // All of it or nothing: made beside its place, for its owner alone, and put there at the end.
    let owners = fs::Permissions::from_mode(0o700);
    let making = tempfile::Builder::new().prefix(".keys-").permissions(owners).tempdir_in(around);
    let making = making.with_context(|| format!("cannot make a folder in {}", around.display()))?;
    let unfinished = KeyFolder::at(Some(making.path()))?;
    let pair = |role| create_pair(&unfinished.key_file(role), passphrase.as_ref().map(|text| text.as_str()));
    let (owner, operator, publisher) = (pair(RoleName::Root)?, pair(RoleName::Operator)?, pair(RoleName::Publisher)?);
    let one = |pair: &Ed25519KeyPair| Role { keys: vec![public(pair)], threshold: 1 };
    let publisher =
        Publisher { name: "publisher".into(), role: one(&publisher), prefix: prefix.clone(), slots: vec!["*".into()] };
    let root = Root {
        version: 1,
        fleet: fleet.clone(),
        expires: Unix(wall_clock().0.saturating_add(ROOT_DAYS * DAY_US)),
        root: one(&owner),
        operator: one(&operator),
        publishers: vec![publisher],
    };
    write_new(&unfinished.root_file(1), &sign(&root, &[&owner]), 0o644)?;
    unfinished.root().context("the root that was made")?;
    fs::rename(making.path(), folder.path()).with_context(|| format!("cannot make {}", folder.path().display()))?;
    // It has another name now.
    let _ = making.keep();
    print(&folder, &folder.root()?, *json)?;
    eprintln!("keep root.pem and a copy in a safe place: it alone decides which keys are trusted");
    Ok(())
}

/// The order survives an end at any moment: the new key is on disk before the root that names it, and takes its place after that. The old
/// private key is not needed if it is the role's only one: it may be lost.
fn rotate(arguments: &Rotate) -> anyhow::Result<()> {
    let Rotate { role, folder, passphrase, json } = arguments;
    let folder = KeyFolder::at(folder.keys.as_deref())?;
    let _lock = folder.lock()?;
    let root = folder.root()?;
    let owner = folder.pair(RoleName::Root, &root)?;
    let here = match role {
        // Its passphrase was given a moment ago.
        RoleName::Root => Ok(public(&owner)),
        RoleName::Operator | RoleName::Publisher => folder.pair(*role, &root).map(|pair| public(&pair)),
    };
    let old = match (here, &role.keys(&root)[..]) {
        (Ok(key), _) => key,
        (Err(_), [only]) => *only,
        (Err(error), _) => return Err(error.context("which of its keys is to go is said by the key file")),
    };
    let fresh = folder.fresh_file(*role);
    if fresh.exists() {
        // Left by an attempt that came to nothing: no root here names it.
        let aside = fresh.with_extension(format!("abandoned-{}", wall_clock().0));
        fs::rename(&fresh, &aside).with_context(|| format!("cannot move {} away", fresh.display()))?;
    }
    // Who protects one key does not want the next one bare.
    let protect = *passphrase || folder.is_encrypted(*role) || folder.is_encrypted(RoleName::Root);
    let passphrase = new_passphrase(protect)?;
    let new = create_pair(&fresh, passphrase.as_ref().map(|text| text.as_str()))?;
    let version = root.version.checked_add(1).context("there are no more roots")?;
    let expires = Unix(wall_clock().0.saturating_add(ROOT_DAYS * DAY_US));
    let mut next = Root { version, expires, ..(*root).clone() };
    let exchange = |keys: &mut Vec<Key>| {
        keys.iter_mut().filter(|key| **key == old).for_each(|key| *key = public(&new));
    };
    match role {
        RoleName::Root => exchange(&mut next.root.keys),
        RoleName::Operator => exchange(&mut next.operator.keys),
        RoleName::Publisher => next.publishers.iter_mut().for_each(|publisher| exchange(&mut publisher.role.keys)),
    }
    let signers = if *role == RoleName::Root { vec![&owner, &new] } else { vec![&owner] };
    let bytes = sign(&next, &signers);
    // A chain that nobody follows is worse than none: a root that takes more signatures is not for one command to make.
    let next = trust::next_root(&root, &bytes).map_err(|refusal| {
        // Nobody has seen this key.
        let _ = fs::remove_file(&fresh);
        let message = format!("root {version} would not count: {refusal}; nothing was changed");
        Failure { exit: Exit::Refused, message, hint: None }
    })?;
    write_new(&folder.root_file(version), &bytes, 0o644)?;
    folder.put_in_place(*role, &next)?;
    print(&folder, &folder.root()?, *json)
}

fn print(folder: &KeyFolder, root: &Verified<Root>, as_json: bool) -> anyhow::Result<()> {
    let days = root.expires.0.saturating_sub(wall_clock().0) / DAY_US;
    let roles = RoleName::ALL.map(|role| {
        let keys = role.keys(root).into_iter().map(|key| key.id().to_string()).collect::<Vec<_>>();
        (role.name(), keys, folder.key_file(role).exists())
    });
    let mut stdout = crate::output::stdout();
    if as_json {
        let roles = roles.map(|(role, keys, here)| json!({ "role": role, "keys": keys, "here": here }));
        let root = json!({
            "folder": folder.path(), "fleet": root.fleet, "root": root.version, "file": folder.root_file(root.version),
            "expires_us": root.expires.0, "roles": roles,
        });
        writeln!(stdout, "{root}")?;
        return Ok(());
    }
    let place = folder.root_file(root.version);
    writeln!(
        stdout,
        "fleet `{}`, root {} in {}, valid until {:.0}",
        root.fleet,
        root.version,
        place.display(),
        root.expires
    )?;
    for (role, keys, here) in roles {
        let here = if here { "with a key file here" } else { "without a key file here" };
        writeln!(stdout, "{role:<10} {}  {here}", keys.join(" "))?;
    }
    if days < 90 {
        let when = if root.expires <= wall_clock() { "has expired" } else { "expires soon" };
        eprintln!("warning: this root {when}: `porin keys rotate root` makes the next one");
    }
    Ok(())
}

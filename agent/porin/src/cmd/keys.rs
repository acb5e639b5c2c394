//! `porin keys`: who may say what. Makes keys, shows them, and exchanges one for another.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Context;
use porin_core::{
    time::Unix,
    trust::{Key, Publisher, Role, Root, Verified, documents::is_name},
};
use ring::signature::Ed25519KeyPair;
use serde_json::json;

use crate::{
    failure::{Failure, REFUSED},
    keys::{KeyFolder, RoleName, new_passphrase, now, public, sign, write_whole},
};

/// A root counts for so long. After that nothing new counts, and what runs goes on.
const ROOT_DAYS: u64 = 5 * 365;

const DAY_US: u64 = 86_400_000_000;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key for each role, and the root that says so
    Init(Init),
    /// Show which keys count, and which are here
    Show(Show),
    /// Make a new key for a role and a root that has it instead of the old one
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Folder {
    /// Where the keys are [default: `porin/keys` in the folder of the user's configuration]
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
    /// Whose key
    role: RoleName,
    /// The key that is to go, by the beginning of its id [default: the only one]
    #[arg(long, value_name = "ID")]
    replace: Option<String>,
    #[command(flatten)]
    folder: Folder,
    /// Protect the new key file with a passphrase, typed or from PORIN_PASSPHRASE
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
                code: 2,
                message: format!("{what} `{name}`: letters, digits and -_./, a letter or digit first, 63 at most"),
                hint: None,
            }
            .into());
        }
    }
    let folder = KeyFolder::at(folder.keys.as_deref())?;
    let files = RoleName::ALL.map(|role| folder.key_file(role));
    if let Some(there) = files.iter().chain([&folder.root_file(1)]).find(|path| path.exists()) {
        return Err(Failure {
            code: REFUSED,
            message: format!("{} is there already; nothing was made", there.display()),
            hint: Some("`porin keys show` shows what there is, `porin keys rotate` exchanges a key; --keys names another folder".into()),
        }
        .into());
    }
    let passphrase = if *passphrase { Some(new_passphrase()?) } else { None };
    folder.make()?;
    let pair = |role| folder.create_pair(&folder.key_file(role), passphrase.as_deref());
    let (owner, operator, publisher) = (pair(RoleName::Root)?, pair(RoleName::Operator)?, pair(RoleName::Publisher)?);
    let one = |pair: &Ed25519KeyPair| Role { keys: vec![public(pair)], threshold: 1 };
    let publisher =
        Publisher { name: "publisher".into(), role: one(&publisher), prefix: prefix.clone(), slots: vec!["*".into()] };
    let root = Root {
        version: 1,
        fleet: fleet.clone(),
        expires: Unix(now().0.saturating_add(ROOT_DAYS * DAY_US)),
        root: one(&owner),
        operator: one(&operator),
        publishers: vec![publisher],
    };
    write_whole(&folder.root_file(1), &sign(&root, &[&owner]))?;
    print(&folder, &folder.root()?, *json)?;
    eprintln!("keep root.pem where nobody else comes near it, and a copy: whose keys count is its alone to say");
    Ok(())
}

/// The order survives an end at any moment: the new key is on disk before the root that names it, and takes its place after that. The old
/// private key is not needed: it may be lost.
fn rotate(arguments: &Rotate) -> anyhow::Result<()> {
    let Rotate { role, replace, folder, passphrase, json } = arguments;
    let folder = KeyFolder::at(folder.keys.as_deref())?;
    let root = folder.root()?;
    let owner = folder.pair(RoleName::Root, &root)?;
    folder.finish_exchange(*role, &root)?;
    let old = replaced(*role, &root, replace.as_deref())?;
    let passphrase = if *passphrase { Some(new_passphrase()?) } else { None };
    let fresh = folder.fresh_file(*role);
    if fresh.exists() {
        // Left by an attempt that came to nothing: no root names it.
        fs::remove_file(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    let new = folder.create_pair(&fresh, passphrase.as_deref())?;
    let expires = Unix(now().0.saturating_add(ROOT_DAYS * DAY_US));
    let mut next = Root { version: root.version + 1, expires, ..(*root).clone() };
    let exchange = |keys: &mut Vec<Key>| {
        keys.iter_mut().filter(|key| **key == old).for_each(|key| *key = public(&new));
    };
    match role {
        RoleName::Root => exchange(&mut next.root.keys),
        RoleName::Operator => exchange(&mut next.operator.keys),
        RoleName::Publisher => next.publishers.iter_mut().for_each(|publisher| exchange(&mut publisher.role.keys)),
    }
    let signers = if *role == RoleName::Root { vec![&owner, &new] } else { vec![&owner] };
    write_whole(&folder.root_file(next.version), &sign(&next, &signers))?;
    folder.finish_exchange(*role, &next)?;
    print(&folder, &folder.root()?, *json)
}

/// The key that is to go: the only one, or the one whose id begins so.
fn replaced(role: RoleName, root: &Root, id: Option<&str>) -> anyhow::Result<Key> {
    let keys = role.keys(root);
    let chosen: Vec<_> = keys.iter().filter(|key| id.is_none_or(|id| key.id().to_string().starts_with(id))).collect();
    let [key] = chosen[..] else {
        let message = match id {
            Some(id) => {
                format!("`{id}` begins the ids of {} keys of the role {}, not of one", chosen.len(), role.name())
            }
            None => format!("the role {} has {} keys", role.name(), keys.len()),
        };
        let hint = Some("--replace says which, by the beginning of its id: `porin keys show` lists them".into());
        return Err(Failure { code: 2, message, hint }.into());
    };
    Ok(*key)
}

fn print(folder: &KeyFolder, root: &Verified<Root>, as_json: bool) -> anyhow::Result<()> {
    let days = root.expires.0.saturating_sub(now().0) / DAY_US;
    let roles = RoleName::ALL.map(|role| {
        let keys = role.keys(root).into_iter().map(|key| key.id().to_string()).collect::<Vec<_>>();
        (role.name(), keys, folder.key_file(role).exists())
    });
    let mut stdout = std::io::stdout().lock();
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
        "fleet `{}`, root {} in {}, counts for {days} more days",
        root.fleet,
        root.version,
        place.display()
    )?;
    for (role, keys, here) in roles {
        let here = if here { "key file here" } else { "key file elsewhere" };
        writeln!(stdout, "{role:<10} {}  {here}", keys.join(" "))?;
    }
    if days < 90 {
        eprintln!("warning: this root expires soon: `porin keys rotate root` makes the next one");
    }
    Ok(())
}

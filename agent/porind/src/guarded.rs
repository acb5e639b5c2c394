//! Files that the agent uses only if other users cannot read or change them: secrets, the policy, the root of trust.
//!
//! Each file is opened once. The kernel's description of the open file decides, so a file that takes its place meanwhile changes
//! nothing.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
};

use anyhow::{Context, bail, ensure};

/// Access that other users may have to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// A key or a password. Either it belongs to the agent's user, without bits for group and others; or it belongs to root with the
    /// agent's group, at most 0640: so the agent reads it and cannot change it.
    Secret,
    /// Only root can have written it.
    WrittenByRoot,
    /// Only its owner can have written it.
    WrittenByOwner,
}

/// Owner, group and mode of a file, or user and group of a process (whose mode means nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    user: u32,
    group: u32,
    mode: u32,
}

/// Reads a file of at most `max_bytes` that is guarded as it must be. `what` names it in errors.
///
/// # Errors
/// If it cannot be read, is too large or is not a file, or others have access to it.
pub(crate) fn read(path: &str, what: &str, guard: Guard, max_bytes: u64) -> anyhow::Result<Vec<u8>> {
    let mut file = open(path, what, max_bytes)?;
    let about = file.metadata().with_context(|| format!("cannot read {what}{path}"))?;
    let file_access = Access { user: about.uid(), group: about.gid(), mode: about.mode() & 0o7777 };
    if let Some(refusal) = refusal(guard, file_access, agent()) {
        bail!("{what}{path} {}", refusal.replace("FILE", path));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(max_bytes).read_to_end(&mut bytes).with_context(|| format!("cannot read {what}{path}"))?;
    Ok(bytes)
}

/// Opens a regular file of at most `max_bytes`. A pipe in its place does not make the caller wait.
pub(crate) fn open(path: &str, what: &str, max_bytes: u64) -> anyhow::Result<File> {
    let cannot = || format!("cannot read {what}{path}");
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).with_context(cannot)?;
    let about = file.metadata().with_context(cannot)?;
    ensure!(about.is_file(), "{what}{path} is not a regular file");
    ensure!(about.len() <= max_bytes, "{what}{path} has {} bytes: at most {max_bytes} are read", about.len());
    Ok(file)
}

/// The agent's effective user and group.
fn agent() -> Access {
    // SAFETY: both ask for a number and cannot fail.
    #[allow(unsafe_code)]
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    Access { user, group, mode: 0 }
}

/// Why a file does not count, and what to do; `FILE` stands for its path.
fn refusal(guard: Guard, file: Access, agent: Access) -> Option<String> {
    let Access { user, group, mode } = file;
    match guard {
        Guard::Secret => {
            // Root asks `check` and `doctor` on behalf of the agent, and reads every file anyway.
            let is_root = agent.user == 0;
            let is_ours = (is_root || user == agent.user) && mode & 0o077 == 0;
            let is_lent = user == 0 && (is_root || group == agent.group) && mode & !0o640 == 0;
            (!is_ours && !is_lent).then(|| {
                let remedy = if user == agent.user || user != 0 {
                    "chmod 600 FILE, as the agent's user".to_owned()
                } else {
                    format!("chown root:{} FILE && chmod 640 FILE", agent.group)
                };
                format!(
                    "has mode {mode:04o}, user {user}, group {group}: a secret must belong to the agent's user ({}) with mode 0600, or to \
                     root and the agent's group ({}) with at most 0640; {remedy}",
                    agent.user, agent.group
                )
            })
        }
        Guard::WrittenByRoot if user != 0 => {
            Some(format!("belongs to user {user}; it must belong to root: chown root FILE"))
        }
        Guard::WrittenByRoot | Guard::WrittenByOwner => (mode & 0o022 != 0)
            .then(|| format!("has mode {mode:04o}; others must not be able to write to it: chmod go-w FILE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: Access = Access { user: 900, group: 901, mode: 0 };

    fn allows(guard: Guard, user: u32, group: u32, mode: u32) -> bool {
        refusal(guard, Access { user, group, mode }, AGENT).is_none()
    }

    #[test]
    fn a_secret_is_the_agents_alone_or_roots_and_lent_to_its_group() {
        let secret = |user, group, mode| allows(Guard::Secret, user, group, mode);
        for (user, group, mode) in
            [(900, 901, 0o600), (900, 5, 0o400), (900, 0, 0o700), (0, 901, 0o640), (0, 901, 0o440), (0, 901, 0o600)]
        {
            assert!(secret(user, group, mode), "{user}:{group} {mode:04o}");
        }
        for (user, group, mode) in [
            (900, 901, 0o640),
            (900, 901, 0o604),
            (0, 901, 0o644),
            (0, 901, 0o660),
            (0, 901, 0o750),
            (0, 901, 0o4640),
            (0, 0, 0o640),
            (0, 902, 0o640),
            (7, 901, 0o640),
            (7, 901, 0o600),
        ] {
            assert!(!secret(user, group, mode), "{user}:{group} {mode:04o}");
        }
    }

    #[test]
    fn root_checks_the_files_of_the_agent_and_still_finds_one_that_others_may_read() {
        let root = Access { user: 0, group: 0, mode: 0 };
        let secret = |user, group, mode| refusal(Guard::Secret, Access { user, group, mode }, root).is_none();
        assert!(secret(0, 901, 0o640) && secret(900, 901, 0o600) && secret(0, 0, 0o600));
        assert!(!secret(0, 901, 0o644) && !secret(900, 901, 0o640) && !secret(0, 901, 0o660));
    }

    #[test]
    fn a_refusal_names_the_mode_and_a_remedy_that_works_for_the_agent() {
        let says = |user, mode| refusal(Guard::Secret, Access { user, group: 0, mode }, AGENT).unwrap_or_default();
        assert!(
            says(0, 0o600).contains("mode 0600, user 0, group 0") && says(0, 0o600).contains("chown root:901 FILE")
        );
        assert!(says(900, 0o644).ends_with("chmod 600 FILE, as the agent's user"));
    }

    #[test]
    fn what_decides_for_others_was_written_by_root_or_its_owner() {
        assert!(allows(Guard::WrittenByRoot, 0, 7, 0o644) && allows(Guard::WrittenByOwner, 7, 7, 0o644));
        assert!(!allows(Guard::WrittenByRoot, 7, 7, 0o600) && !allows(Guard::WrittenByRoot, 0, 0, 0o664));
        assert!(!allows(Guard::WrittenByOwner, 7, 7, 0o646));
    }
}

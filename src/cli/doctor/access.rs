//! Who may open a device: permission bits, owner, groups and access control lists, found out without opening anything.
//!
//! The kernel's own rules (acl(5), path_resolution(7)), applied to a user who need not be the one that runs this.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::root::Root;
use super::service::Unit;

/// Read and write: what the drivers open devices for.
const READ_WRITE: u32 = 0o6;

/// The service's user, as deploy/systemd makes it.
const SERVICE_USER: &str = "attendant";

/// Somebody whose permissions count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Login name, or the number if it has none.
    pub name: String,
    uid: u32,
    gids: Vec<u32>,
    /// What /etc/group says that a running process of theirs does not have.
    coming: Vec<u32>,
    /// Whether the service runs as this user.
    pub is_service: bool,
}

/// What somebody may do with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    Yes,
    /// Not, and the command that mends it.
    No {
        /// Owner and mode, for the message.
        why: String,
        /// What to do.
        fix: String,
    },
    /// It cannot be told.
    Unknown(String),
}

impl Person {
    /// `named`, else the service's user if the tree has one, else whoever runs this.
    ///
    /// # Errors
    /// A message for the user if there is nobody of that name.
    pub fn find(root: &Root, named: Option<&str>, unit: Option<&Unit>) -> Result<Person, String> {
        let service = unit.and_then(|u| u.value("User")).unwrap_or_else(|| SERVICE_USER.to_owned());
        if let Some(name) = named {
            let person = Self::of_name(root, name, unit, name == service);
            return person.ok_or_else(|| format!("--user {name}: not in {}", root.path("/etc/passwd").display()));
        }
        match Self::of_name(root, &service, unit, true) {
            Some(person) => Ok(person),
            None => Ok(Self::current(root)),
        }
    }

    fn of_name(root: &Root, name: &str, unit: Option<&Unit>, is_service: bool) -> Option<Person> {
        let passwd = root.text("/etc/passwd")?;
        let fields = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>());
        let fields = fields.into_iter().find(|f| f.len() > 3 && f[0] == name)?;
        let (uid, gid) = (fields[2].parse().ok()?, fields[3].parse().ok()?);
        let mut gids = vec![gid];
        gids.extend(groups_of(root, name));
        if let Some(more) = unit.filter(|_| is_service).and_then(|u| u.value("SupplementaryGroups")) {
            gids.extend(more.split_whitespace().filter_map(|group| gid_of(root, group)));
        }
        Some(Person { name: name.to_owned(), uid, gids, coming: vec![], is_service })
    }

    fn current(root: &Root) -> Person {
        let uid = rustix::process::geteuid().as_raw();
        let mut gids = vec![rustix::process::getegid().as_raw()];
        gids.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|g| g.as_raw()));
        let passwd = root.text("/etc/passwd").unwrap_or_default();
        let mut lines = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>());
        let name = lines.find(|f| f.len() > 3 && f[2].parse() == Ok(uid)).map(|f| f[0].to_owned());
        let mut coming = name.as_deref().map(|n| groups_of(root, n)).unwrap_or_default();
        coming.retain(|gid| !gids.contains(gid));
        Person { name: name.unwrap_or_else(|| uid.to_string()), uid, gids, coming, is_service: false }
    }

    /// Whether this person may read and write the file at `path` of the tree. `rules` says how a node gets a group if its own opens
    /// nothing.
    pub fn may_use(&self, root: &Root, path: &Path, rules: &str) -> Access {
        let meta = match root.resolve(path).and_then(std::fs::metadata) {
            Ok(meta) => meta,
            Err(e) => return Access::Unknown(e.to_string()),
        };
        let mode = meta.permissions().mode();
        let list = acl(&root.path(path));
        if self.uid == 0 || may(self.uid, &self.gids, Owner { uid: meta.uid(), gid: meta.gid(), mode }, &list) {
            return Access::Yes;
        }
        let group = group_name(root, meta.gid());
        let why = format!("no permission for {}: {} {:o}", self.name, group, mode & 0o777);
        let again = if self.is_service { "sudo systemctl restart attendant" } else { "log in again" };
        let opens = mode >> 3 & READ_WRITE == READ_WRITE && meta.gid() != 0;
        let fix = match () {
            () if opens && self.coming.contains(&meta.gid()) => {
                format!("log in again: {} has joined {group}, this session has not", self.name)
            }
            () if opens => format!("sudo usermod -aG {group} {}, then {again}", self.name),
            () => rules.to_owned(),
        };
        Access::No { why, fix }
    }
}

/// Owner, group and mode of a file.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// One entry of an access control list: tag, permission, number.
type Entry = (u16, u16, u32);

// acl(5), include/uapi/linux/posix_acl.h
const ACL_USER: u16 = 0x02;
const ACL_GROUP_OBJ: u16 = 0x04;
const ACL_GROUP: u16 = 0x08;
const ACL_MASK: u16 = 0x10;
const ACL_NAME: &str = "system.posix_acl_access";
const ACL_BYTES_MAX: usize = 4096;

/// The list of a file; empty if it has none or that cannot be read. logind gives devices to whoever sits at the machine this way.
fn acl(path: &Path) -> Vec<Entry> {
    let mut bytes = [0_u8; ACL_BYTES_MAX];
    match rustix::fs::getxattr(path, ACL_NAME, &mut bytes[..]) {
        Ok(len) => parse_acl(&bytes[..len]),
        Err(_) => vec![],
    }
}

/// A version of four bytes, then entries of eight, little-endian.
fn parse_acl(bytes: &[u8]) -> Vec<Entry> {
    let entries = bytes.get(4..).unwrap_or_default().chunks_exact(8);
    let entry = |e: &[u8]| {
        let half = |i: usize| u16::from_le_bytes([e[i], e[i + 1]]);
        (half(0), half(2), u32::from_le_bytes([e[4], e[5], e[6], e[7]]))
    };
    entries.map(entry).collect()
}

/// Whether the owner's, the list's or the others' permissions let somebody read and write: the first class that applies decides.
fn may(uid: u32, gids: &[u32], owner: Owner, list: &[Entry]) -> bool {
    let all = |permission: u32| permission & READ_WRITE == READ_WRITE;
    if uid == owner.uid {
        return all(owner.mode >> 6);
    }
    let mask = list.iter().find(|e| e.0 == ACL_MASK).map_or(0o7, |e| u32::from(e.1));
    if let Some(entry) = list.iter().find(|e| e.0 == ACL_USER && e.2 == uid) {
        return all(u32::from(entry.1) & mask);
    }
    // without a list the mode's middle bits are the group's, with one they are the mask
    let of_group = list.iter().find(|e| e.0 == ACL_GROUP_OBJ).map_or(owner.mode >> 3, |e| u32::from(e.1) & mask);
    let own = gids.contains(&owner.gid).then_some(of_group);
    let named = list.iter().filter(|e| e.0 == ACL_GROUP && gids.contains(&e.2)).map(|e| u32::from(e.1) & mask);
    let mut classes = own.into_iter().chain(named).peekable();
    if classes.peek().is_some() {
        return classes.any(all);
    }
    all(owner.mode)
}

/// Lines of /etc/group as name, number, members.
fn groups(root: &Root) -> Vec<(String, u32, String)> {
    let text = root.text("/etc/group").unwrap_or_default();
    let line = |l: &str| {
        let mut fields = l.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        Some((name.to_owned(), gid, fields.next().unwrap_or_default().to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn groups_of(root: &Root, name: &str) -> Vec<u32> {
    groups(root).into_iter().filter(|g| g.2.split(',').any(|m| m == name)).map(|g| g.1).collect()
}

fn gid_of(root: &Root, name: &str) -> Option<u32> {
    groups(root).into_iter().find(|g| g.0 == name).map(|g| g.1)
}

fn group_name(root: &Root, gid: u32) -> String {
    groups(root).into_iter().find(|g| g.1 == gid).map_or(gid.to_string(), |g| g.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_applies_decides() {
        let owner = |mode| Owner { uid: 0, gid: 44, mode };
        let mine = |mode| Owner { uid: 1000, gid: 44, mode };
        let acl = |user: u16, mask: u16| {
            vec![(0x01, 6, 0), (ACL_USER, user, 1000), (ACL_GROUP_OBJ, 6, 0), (ACL_MASK, mask, 0)]
        };
        let group = |perm: u16| vec![(ACL_GROUP_OBJ, 0, 0), (ACL_GROUP, perm, 7), (ACL_MASK, 6, 0)];
        for (case, gids, file, list, expected) in [
            ("a member of the group", &[44][..], owner(0o660), vec![], true),
            ("a stranger", &[7], owner(0o660), vec![], false),
            ("a stranger where others may", &[7], owner(0o666), vec![], true),
            ("a member of a group that may only read", &[44], owner(0o646), vec![], false),
            ("the owner of what only the group may use", &[44], mine(0o060), vec![], false),
            ("the owner", &[], mine(0o600), vec![], true),
            ("whom logind lets", &[7], owner(0o660), acl(6, 6), true),
            ("whom the mask keeps out", &[7], owner(0o640), acl(6, 4), false),
            ("whom the list keeps out of what others may", &[44], owner(0o666), acl(0, 6), false),
            ("a group of the list", &[7], owner(0o660), group(6), true),
            ("a group of the list that may not", &[7], owner(0o666), group(4), false),
            ("the file's group, which the list cuts down", &[44], owner(0o660), group(6), false),
        ] {
            assert_eq!(may(1000, gids, file, &list), expected, "{case}");
        }
    }

    #[test]
    fn a_list_is_read_as_the_kernel_writes_it() {
        let bytes = [2, 0, 0, 0, 2, 0, 6, 0, 0xe8, 3, 0, 0, 0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, 9];
        assert_eq!(parse_acl(&bytes), [(ACL_USER, 6, 1000), (ACL_MASK, 4, u32::MAX)]);
        assert_eq!(parse_acl(&[2]), []);
    }
}

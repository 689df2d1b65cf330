//! `bucketsctl user`

use super::table::Table;
use super::{CtlError, ServerArgs, write_json};
use crate::admin_api::NewUser;
use crate::verdict::Exit;
use std::io::{self, Write};
use time::OffsetDateTime;

#[derive(Debug, clap::Subcommand)]
pub(super) enum UserCommand {
    /// Make a user and print its keys, this once
    Add(AddArgs),
    /// List the users, without their secrets
    List(ListArgs),
    /// Remove a user; its requests are refused from then on
    Remove(RemoveArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The access key [default: generated]
    #[arg(value_name = "ACCESS_KEY")]
    access_key: Option<String>,
    /// Read the secret from standard input, one line [default: generated]
    #[arg(long)]
    secret_stdin: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// The access key
    #[arg(value_name = "ACCESS_KEY")]
    access_key: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    command: UserCommand,
    env: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<Exit, CtlError> {
    match command {
        UserCommand::Add(args) => {
            let secret_key = if args.secret_stdin { Some(read_secret()?) } else { None };
            let user =
                args.server.client(env)?.add_user(&NewUser { access_key: args.access_key, secret_key })?;
            if args.json {
                write_json(out, &user)?;
            } else {
                writeln!(out, "access key: {}\nsecret key: {}", user.access_key, user.secret_key)?;
                writeln!(out, "the secret is not shown again")?;
            }
        }
        UserCommand::List(args) => {
            let list = args.server.client(env)?.users()?;
            if args.json {
                write_json(out, &list)?;
            } else {
                let mut table = Table::new(&["ACCESS KEY", "CREATED"]);
                for user in &list.users {
                    table.row(vec![user.access_key.clone(), date(user.created_unix_ms)]);
                }
                table.write(out)?;
            }
        }
        UserCommand::Remove(args) => {
            args.server.client(env)?.remove_user(&args.access_key)?;
            if args.json {
                write_json(out, &serde_json::json!({ "removed": args.access_key }))?;
            } else {
                writeln!(out, "removed {}", args.access_key)?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// One line, so that the secret is neither in the process list nor in the shell's history.
fn read_secret() -> Result<String, CtlError> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(CtlError::Secret)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn date(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(date) => format!(
            "{}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute(),
            date.second()
        ),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_utc_and_absurd_ones_are_unknown() {
        assert_eq!(date(1_700_000_000_000), "2023-11-14 22:13:20 UTC");
        assert_eq!(date(u64::MAX), "?");
    }
}

// The vault that holds the Klaviyo keys, by roles only. Or a vault that is there: then only roles are added.

import { roles } from 'roles.bicep'

param token string
param location string
param tags object
param appPrincipalId string
param workspaceId string

@description('Name of a vault in this resource group that works by roles (RBAC); empty makes one.')
param existingVaultName string

@description('"recover" takes up a deleted vault of the same name, which purge protection keeps for 90 days.')
@allowed(['default', 'recover'])
param createMode string

@description('Whether the app may also store keys: people can then give them to the app. Reading needs no more than Secrets User.')
param appWritesKeys bool

@description('Object id of the person who stores keys. Empty gives no role.')
param operatorObjectId string
param operatorType string

@description('Whether the vault made here can be reached from the internet, by those who have a role.')
param publicAccess bool

var newVaultName = 'kv-${token}'
var vaultName = empty(existingVaultName) ? newVaultName : existingVaultName

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' = if (empty(existingVaultName)) {
  name: newVaultName
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: { family: 'A', name: 'standard' }
    createMode: createMode
    enableRbacAuthorization: true
    enableSoftDelete: true
    enablePurgeProtection: true
    softDeleteRetentionInDays: 90
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    networkAcls: { defaultAction: publicAccess ? 'Allow' : 'Deny', bypass: 'AzureServices' }
  }
}

resource usedVault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: vaultName
}

resource whoReadWhat 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (empty(existingVaultName)) {
  name: 'audit'
  scope: vault
  properties: {
    workspaceId: workspaceId
    logs: [{ categoryGroup: 'audit', enabled: true }]
  }
}

var appRole = appWritesKeys ? roles.keyVaultSecretsOfficer : roles.keyVaultSecretsUser

resource appReads 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(usedVault.id, appPrincipalId, appRole)
  scope: usedVault
  dependsOn: [vault]
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', appRole)
  }
}

resource operatorStores 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorObjectId)) {
  name: guid(usedVault.id, operatorObjectId, roles.keyVaultSecretsOfficer)
  scope: usedVault
  dependsOn: [vault]
  properties: {
    principalId: operatorObjectId
    principalType: operatorType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsOfficer)
  }
}

output name string = vaultName
output id string = usedVault.id
output url string = 'https://${vaultName}${environment().suffixes.keyvaultDns}' // by name: nothing to wait for
